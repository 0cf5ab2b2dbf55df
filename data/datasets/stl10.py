"""STL-10: 5,000 + 8,000 photographs of 96 x 96 px in 10 classes, and 100,000 unlabeled ones."""

from pathlib import Path

import torch

from data.dataset import ResidentDataset
from data.datasets.download import open_or_download

CLASSES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


def read_stl10(split: str, folder: Path) -> ResidentDataset:
    """The `train`, `val` (test) or `unlabeled` split from `folder`/stl10_binary; labels 1-10 become 0-9."""
    source = open_or_download("stl-10", folder, "STL10", split="test" if split == "val" else split)
    images = torch.from_numpy(source.data).contiguous()  # (N, 3, 96, 96), from files in column order
    return ResidentDataset(images, torch.from_numpy(source.labels).long(), CLASSES)
