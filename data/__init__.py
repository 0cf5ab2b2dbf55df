"""Images: data sets by name, batched augmentation, and the loader that hands out augmented views."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from data.dataset import ResidentDataset, StreamedDataset
from data.datasets.cifar import read_cifar10, read_cifar20
from data.datasets.digits import read_digits
from data.datasets.fashion_mnist import read_fashion_mnist
from data.datasets.imagenet import read_imagenet
from data.datasets.stl10 import read_stl10
from data.folder.pictures import read_folder
from utils.console import say_once
from utils.distributed import first_on_machine
from utils.mypath import DATASET_FOLDERS, MyPath

DATASETS = {  # name: function of the split and, for a data set with files, its folder
    "digits": read_digits,
    "fashion-mnist": read_fashion_mnist,
    "cifar-10": read_cifar10,
    "cifar-20": read_cifar20,
    "stl-10": read_stl10,
}


def build_dataset(cfg, split: str) -> ResidentDataset | StreamedDataset:
    """The `train` or `val` split of the config's data set; STL-10 also has a split `unlabeled`.

    Every split but `val` is cut to `max_images`. Raises UserError for missing images."""
    return first_on_machine(lambda: _read(cfg, split))


def _read(cfg, split: str) -> ResidentDataset | StreamedDataset:
    name = cfg.val_db_name if split == "val" else cfg.train_db_name
    folder = [Path(MyPath.db_root_dir(name, cfg.get("db_root_dir")))] if name in DATASET_FOLDERS else []
    if name == "folder":
        dataset = read_folder(cfg, split)
    elif name.startswith("imagenet"):
        caches = Path(cfg.root_dir, "scans")
        dataset = read_imagenet(name, split, *folder, caches, cfg.num_workers, cfg.on_error)
        short_side = max(dataset.short_side, cfg.transformation_kwargs.get("resize", 0))
        dataset = replace(dataset, short_side=short_side)  # nothing is enlarged after it is read
    else:
        dataset = DATASETS[name](split, *folder)
    return dataset.subset(cfg.max_images) if split != "val" and "max_images" in cfg else dataset


def with_unlabeled(cfg, train_set: ResidentDataset) -> ResidentDataset:
    """The images of the pretext task: the train split and, for STL-10, its unlabeled images after it."""
    if cfg.train_db_name != "stl-10":
        return train_set
    unlabeled = build_dataset(cfg, "unlabeled")
    images = torch.cat([train_set.images, unlabeled.images])
    return ResidentDataset(images, torch.cat([train_set.targets, unlabeled.targets]), train_set.classes)


def open_splits(cfg) -> tuple:
    """The train and the val split of the config's data set."""
    train, val = build_dataset(cfg, "train"), build_dataset(cfg, "val")
    if cfg.train_db_name == cfg.val_db_name == "folder" and "val_path" in cfg.folder:
        copies = int(np.isin(val.source.signatures, train.source.signatures).sum())
        if copies:
            say_once(f"warning: {copies:,} of {len(val):,} val images are copies of training images")
    return train, val
