"""Images: data sets by name, batched augmentation, and the loader that hands out augmented views."""

from functools import partial
from pathlib import Path

import torch

from data.dataset import ResidentDataset, StreamedDataset
from data.datasets.cifar import read_cifar10, read_cifar20
from data.datasets.digits import read_digits
from data.datasets.fashion_mnist import read_fashion_mnist
from data.datasets.imagenet import read_imagenet
from data.datasets.stl10 import read_stl10
from data.folder.pictures import read_folder
from data.folder.scan import FolderScan
from utils.errors import UserError
from utils.mypath import DATASET_FOLDERS, MyPath

DATASETS = {  # name: function of the split, and of the folder of a data set that has one
    "digits": read_digits,
    "fashion-mnist": read_fashion_mnist,
    "cifar-10": read_cifar10,
    "cifar-20": read_cifar20,
    "stl-10": read_stl10,
}
STREAMED = {  # the same for images that stay in their files: function of split, folder and how folders are scanned
    name: partial(read_imagenet, name) for name in ("imagenet", "imagenet_50", "imagenet_100", "imagenet_200")
}
WITH_UNLABELED = ("stl-10",)  # their readers know a split `unlabeled`, too


def build_dataset(cfg, split: str) -> ResidentDataset | StreamedDataset:
    """The `train` or `val` split of the config's data set: `len`, `targets`, `classes` and `get_image(i)`; STL-10 has
    a split `unlabeled`, too.

    All but `val` is thinned to `max_images`. Raises UserError for a name without a reader, or missing images."""
    name = cfg.val_db_name if split == "val" else cfg.train_db_name
    folder = [Path(MyPath.db_root_dir(name, cfg.get("db_root_dir")))] if name in DATASET_FOLDERS else []
    if name == "folder":
        dataset = read_folder(cfg, split)
    elif name in STREAMED:
        scan = FolderScan(Path(cfg.root_dir, "scans"), cfg.num_workers, cfg.on_error)
        dataset = STREAMED[name](split, *folder, scan)
    elif name in DATASETS:
        dataset = DATASETS[name](split, *folder)
    else:
        known = ", ".join(sorted([*DATASETS, *STREAMED, "folder"]))
        raise UserError(f"data set {name!r} has no reader: choose one of {known}")
    return dataset.subset(cfg.max_images) if split != "val" and "max_images" in cfg else dataset


def with_unlabeled(cfg, train_set: ResidentDataset) -> ResidentDataset:
    """What the pretext task trains on: the train split and, on STL-10, the 100,000 unlabeled images after it."""
    if cfg.train_db_name not in WITH_UNLABELED:
        return train_set
    unlabeled = build_dataset(cfg, "unlabeled")
    images = torch.cat([train_set.images, unlabeled.images])
    return ResidentDataset(images, torch.cat([train_set.targets, unlabeled.targets]), train_set.classes)


def open_splits(cfg) -> tuple:
    """Both splits of the config's data set: train and val."""
    return build_dataset(cfg, "train"), build_dataset(cfg, "val")
