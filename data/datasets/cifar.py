"""CIFAR-10, and CIFAR-100 under its 20 superclasses: 50,000 + 10,000 photographs of 32 x 32 px."""

import pickle
from pathlib import Path

import torch

from data.dataset import ResidentDataset
from data.datasets.download import open_or_download


def read_cifar10(split: str, folder: Path) -> ResidentDataset:
    """The `train` or `val` (test) split from `folder`/cifar-10-batches-py, batch file after batch file."""
    source = open_or_download("cifar-10", folder, "CIFAR10", train=split == "train")
    return _dataset(source, source.targets, source.classes)


def read_cifar20(split: str, folder: Path) -> ResidentDataset:
    """The `train` or `val` (test) split from `folder`/cifar-100-python, with its 20 coarse labels."""
    source = open_or_download("cifar-20", folder, "CIFAR100", train=split == "train")
    # torchvision has just verified these files, and keeps only the fine labels
    paths = (folder / source.base_folder / name for name in ("train" if source.train else "test", "meta"))
    content, meta = (pickle.loads(path.read_bytes(), encoding="latin1") for path in paths)
    return _dataset(source, content["coarse_labels"], meta["coarse_label_names"])


def _dataset(source, targets: list[int], classes: list[str]) -> ResidentDataset:
    images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()  # (N, 3, 32, 32)
    return ResidentDataset(images, torch.tensor(targets), list(classes))
