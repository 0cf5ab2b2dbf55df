"""ImageNet-50 in small, for tests of mistakes: JPEG files, a narrow network in MoCo's format, command lines."""

import shutil
from pathlib import Path

import torch

from data.datasets.imagenet import FOLDERS, class_ids
from models.backbones.resnet import ResNet18
from models.heads import ContrastiveModel
from tests.image_trees import write_imagenet

CONFIGS = {
    "moco": "configs/pretext/moco_imagenet50.yml",
    "scan": "configs/scan/scan_imagenet_50.yml",
    "selflabel": "configs/selflabel/selflabel_imagenet_50.yml",
}
SIZES = "backbone=resnet18 model_kwargs.width=2 transformation_kwargs.crop_size=32 num_workers=0 device=cpu"
MORE = {  # what each command line has besides
    "moco": " moco_weights={outside}/moco.pth.tar",
    "scan": " augmentation_kwargs.random_resized_crop.size=32 batch_size=32 epochs=1",
    "selflabel": " augmentation_kwargs.crop_size=32 batch_size=32 epochs=1",
    "eval": " --model {here}/scan/model.pth.tar",
}
IDS = class_ids("imagenet_50")


def arguments_of(stage: str, here: Path, more: str = "") -> list[str]:
    """As for the digits: `{here}` is the run's folder, `{outside}` holds results, images and other files."""
    line = f"--config_exp {CONFIGS['scan' if stage == 'eval' else stage]} {SIZES} {MORE[stage]}"
    line += f" root_dir={{outside}}/results db_root_dir.imagenet={{outside}}/images {more}"
    return [word.format(here=here, outside=here.parents[1]) for word in line.split()]


def network() -> dict:
    """The weights of a narrow pretext model, whose few channels are all alive."""
    torch.manual_seed(0)
    state = ContrastiveModel(ResNet18("imagenet", 2), "mlp", 128).state_dict()
    return {name: value - 0.5 if name.endswith("running_mean") else value for name, value in state.items()}


def mocos(state: dict, encoder: str = "q") -> dict:
    """Under the names that MoCo gives them."""
    names = {name: name.removeprefix("backbone.").replace("contrastive_head", "fc") for name in state}
    return {f"module.encoder_{encoder}.{names[name]}": value for name, value in state.items()}


def write_files(outside: Path) -> None:
    """100 training and 50 val images, and MoCo's file."""
    write_imagenet(outside / "images", "imagenet_50", train=2, val=1)
    torch.save({"epoch": 800, "arch": "resnet50", "state_dict": mocos(network())}, outside / "moco.pth.tar")


def class_folder(here: Path, number: int = 0) -> Path:
    """Where the training images of a class lie: two files."""
    return here.parents[1] / "images" / FOLDERS["train"] / IDS[number]


def copy_all(source: Path, target: Path) -> None:
    """The runs, and the images as links: a test that changes an image puts another file there. The cache of what
    the files are is left out: it belongs to their place."""
    shutil.copytree(source / "results", target / "results", ignore=shutil.ignore_patterns("scans"))
    shutil.copytree(source / "images", target / "images", copy_function=lambda a, b: Path(b).hardlink_to(a))
    shutil.copy(source / "moco.pth.tar", target)
