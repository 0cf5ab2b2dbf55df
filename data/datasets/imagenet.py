"""ImageNet (ILSVRC 2012) and its published subsets of 50, 100 and 200 classes. It is never downloaded."""

import os
import re
from pathlib import Path

import numpy as np
import torch
from torchvision.models import ResNet50_Weights

from data.folder.scan import FolderScan
from data.dataset import StreamedDataset
from utils.errors import UserError

FOLDERS = {"train": "ILSVRC2012_img_train", "val": "ILSVRC2012_img_val"}
SUFFIX = ".JPEG"


def read_imagenet(name: str, split: str, folder: Path, scan: FolderScan) -> StreamedDataset:
    """`folder`/ILSVRC2012_img_{train,val}/<class id>/*.JPEG, class by class, files by name.

    A target is the place of its class in the list: of the subset, and for all of ImageNet of the sorted folders.
    Raises UserError where folders are missing, and as `FolderScan.files_of`."""
    place = folder / FOLDERS[split]
    if not place.is_dir():
        raise UserError(
            f"{name} is not in {folder.absolute()}: {FOLDERS[split]}/<class id>/*{SUFFIX} should be there, and is not "
            "downloaded; name the folder that holds it in db_root_dir.imagenet=... or in the environment "
            f"(SCAN_IMAGENET_DIR{', which is set and goes first' * ('SCAN_IMAGENET_DIR' in os.environ)})"
        )
    ids = sorted(_folders_of(folder)) if name == "imagenet" else class_ids(name)
    if not ids:
        raise UserError(
            f"{place.absolute()} has no folder named after a class id, such as {class_ids('imagenet')[0]}: "
            "put them right there"
        )
    files = scan.files_of(place, ids, SUFFIX)
    names = [os.fsencode(f"{name}/{file}") for name, of_class in zip(ids, files, strict=True) for file in of_class]
    sizes = np.array([size for of_class in files for size in of_class.values()], dtype="<i8")
    targets = torch.arange(len(ids)).repeat_interleave(torch.tensor([len(of_class) for of_class in files]))
    return StreamedDataset(place, np.array(names), sizes, targets, class_names(ids), scan.num_workers)


def class_ids(name: str) -> list[str]:
    """The WordNet ids of `imagenet` or a subset, in the order that targets count."""
    return (Path(__file__).parent / "imagenet_classes" / f"{name}.txt").read_text().split()


def class_names(ids: list[str]) -> list[str]:
    """torchvision's word for each class; an id that ImageNet does not know stands for itself."""
    known = dict(zip(class_ids("imagenet"), ResNet50_Weights.IMAGENET1K_V2.meta["categories"], strict=True))
    return [known.get(class_id, class_id) for class_id in ids]


def _folders_of(folder: Path) -> set[str]:
    """The class ids that have a folder in either split, so that both splits count alike."""
    places = [folder / place for place in FOLDERS.values() if (folder / place).is_dir()]
    return {path.name for place in places for path in place.iterdir() if re.fullmatch(r"n\d{8}", path.name)}
