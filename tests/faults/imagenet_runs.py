"""ImageNet-50 in small, for tests of mistakes: its tree of JPEG files, a narrow network in MoCo's format, and the runs
of moco.py and scan.py that stand there. Command lines as a user gives them, but for the sizes."""

import shutil
from pathlib import Path

import torch

from data.datasets.imagenet import FOLDERS, SUFFIX, class_ids
from data.folder.scan import FolderScan
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
    """As that of the digits' runs: `{here}` is the run's folder, `{outside}` holds results, images and other files."""
    line = (
        f"--config_exp {CONFIGS['scan' if stage == 'eval' else stage]} root_dir={{outside}}/results {SIZES}"
    )
    line += f" db_root_dir.imagenet={{outside}}/images{MORE[stage]} {more}"
    return [word.format(here=here, outside=here.parents[1]) for word in line.split()]


def network() -> dict:
    """The weights of a narrow pretext model, whose few channels are all alive."""
    torch.manual_seed(0)
    state = ContrastiveModel(ResNet18("imagenet", 2), "mlp", 128).state_dict()
    return {name: value - 0.5 if name.endswith("running_mean") else value for name, value in state.items()}


def mocos(state: dict, encoder: str = "q") -> dict:
    """Under the names that MoCo gives them."""
    short = {
        name.removeprefix("backbone.").replace("contrastive_head", "fc"): value
        for name, value in state.items()
    }
    return {f"module.encoder_{encoder}.{name}": value for name, value in short.items()}


def write_files(outside: Path) -> None:
    """100 training and 50 val images, and MoCo's file."""
    write_imagenet(outside / "images", "imagenet_50", train=2, val=1)
    torch.save({"epoch": 800, "arch": "resnet50", "state_dict": mocos(network())}, outside / "moco.pth.tar")


def class_folder(here: Path, number: int = 0) -> Path:
    """Where the training images of a class lie: two files."""
    return here.parents[1] / "images" / FOLDERS["train"] / IDS[number]


def check_files(here: Path) -> None:
    """What a run before has found out of the images."""
    for place in FOLDERS.values():
        FolderScan(here.parent / "scans").files_of(here.parents[1] / "images" / place, IDS, SUFFIX)


def copy_all(source: Path, target: Path) -> None:
    """The runs and the images, these as links: a test that changes an image puts another file there. What was found
    out of the images is left out, for it is kept by their place."""
    shutil.copytree(source / "results", target / "results", ignore=shutil.ignore_patterns("scans"))
    shutil.copytree(source / "images", target / "images", copy_function=lambda a, b: Path(b).hardlink_to(a))
    shutil.copy(source / "moco.pth.tar", target)
