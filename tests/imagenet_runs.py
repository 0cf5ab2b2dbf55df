"""ImageNet-50 in small: JPEG files, a narrow network in MoCo's format, and command lines."""

import shutil
from pathlib import Path

import torch

import eval as evaluation
import moco
from data.datasets.imagenet import FOLDERS, class_ids
from models.backbones.resnet import ResNet18
from models.heads import ContrastiveModel
from tests.image_trees import write_imagenet
from tests.small_runs import SCRIPTS

MAINS = {
    "moco": moco.main,
    "eval": evaluation.main,
    **{stage: script.main for stage, script in SCRIPTS.items()},
}
CONFIGS = {
    "moco": "configs/pretext/moco_imagenet50.yml",
    "scan": "configs/scan/scan_imagenet_50.yml",
    "selflabel": "configs/selflabel/selflabel_imagenet_50.yml",
}
SIZE = 32
NARROW = (
    f"backbone=resnet18 model_kwargs.width=2 transformation_kwargs.crop_size={SIZE} num_workers=0 device=cpu"
)
MORE = {  # what each command line has besides
    "moco": "weights={outside}/moco.pth.tar",
    "scan": f"augmentation_kwargs.random_resized_crop.size={SIZE} batch_size=32 epochs=1",
    "selflabel": f"augmentation_kwargs.crop_size={SIZE} batch_size=32 epochs=1",
    "eval": "--model {here}/scan/model.pth.tar",
}
IDS = class_ids("imagenet_50")


def arguments_of(stage: str, here: Path, more: str = "") -> list[str]:
    """The command line of a stage, or of eval for the SCAN model.

    `{here}` stands for the run's folder, `{outside}` for the one with results, images and other files."""
    line = f"--config_exp {CONFIGS['scan' if stage == 'eval' else stage]} {NARROW} {MORE[stage]}"
    line += f" root_dir={{outside}}/results db_root_dir.imagenet={{outside}}/images {more}"
    return [word.format(here=here, outside=here.parents[1]) for word in line.split()]


def run(stage: str, here: Path, more: str = "") -> None:
    MAINS[stage](arguments_of(stage, here, more))


def with_statistics(model: torch.nn.Module) -> torch.nn.Module:
    """Give a new model batch-norm statistics with which its outputs differ from image to image."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator) - 0.2)
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    return model.eval()


def network(seed: int = 0) -> ContrastiveModel:
    """A narrow pretext model."""
    torch.manual_seed(seed)
    return with_statistics(ContrastiveModel(ResNet18("imagenet", 2), "mlp", 128))


def mocos(model: ContrastiveModel, encoder: str = "q") -> dict:
    """Its weights under the names that MoCo gives them."""
    return {
        f"module.encoder_{encoder}." + name.removeprefix("backbone.").replace("contrastive_head", "fc"): value
        for name, value in model.state_dict().items()
    }


def write_files(outside: Path) -> None:
    """100 training and 50 val images, and MoCo's file."""
    write_imagenet(outside / "images", "imagenet_50", train=2, val=1)
    content = {"epoch": 800, "arch": "resnet50", "state_dict": mocos(network())}
    torch.save(content, outside / "moco.pth.tar", _use_new_zipfile_serialization=False)


def class_folder(here: Path, number: int = 0) -> Path:
    """Where the training images of a class lie: two files."""
    return here.parents[1] / "images" / FOLDERS["train"] / IDS[number]


def copy_all(source: Path, target: Path) -> None:
    """The runs, and the images as links: a test that changes an image puts another file there.

    The cache of what the files are is left out: it belongs to their place."""
    shutil.copytree(source / "results", target / "results", ignore=shutil.ignore_patterns("scans"))
    shutil.copytree(source / "images", target / "images", copy_function=lambda a, b: Path(b).hardlink_to(a))
    shutil.copy(source / "moco.pth.tar", target)
