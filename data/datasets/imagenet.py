"""ImageNet (ILSVRC 2012) and its published subsets of 50, 100 and 200 classes. It is never downloaded."""

import os
from pathlib import Path

import numpy as np
import torch

from data.dataset import StreamedDataset
from data.folder.scan import files_of

FOLDERS = {"train": "ILSVRC2012_img_train", "val": "ILSVRC2012_img_val"}


def read_imagenet(name: str, split: str, folder: Path, caches: Path, num_workers=0, on_error="stop"):
    """The StreamedDataset of `folder`/ILSVRC2012_img_{train,val}/<class id>/*.JPEG, sorted.

    A target is the index of its class: in the subset's list, or for `imagenet` in the sorted folders of both
    splits. Raises UserError as `files_of`."""
    ids = class_ids(name)
    if name == "imagenet":
        paths = (path for place in FOLDERS.values() for path in folder.glob(f"{place}/n{'[0-9]' * 8}"))
        ids = sorted({path.name for path in paths}) or ids
    place = folder / FOLDERS[split]
    classes = files_of(place, ids, caches, num_workers, on_error)
    files = [os.fsencode(f"{ids[k]}/{file}") for k, sizes in enumerate(classes) for file in sizes]
    sizes = np.array([size for sizes in classes for size in sizes.values()], dtype="<i8")
    targets = torch.arange(len(ids)).repeat_interleave(torch.tensor([len(sizes) for sizes in classes]))
    return StreamedDataset(place, np.array(files), sizes, targets, class_names(ids), num_workers)


def class_ids(name: str) -> list[str]:
    """The WordNet ids of `imagenet` or a subset, in the order of the targets."""
    return (Path(__file__).parent / "imagenet_classes" / f"{name}.txt").read_text().split()


def class_names(ids: list[str]) -> list[str]:
    """torchvision's name for each class; an unknown id is its own name."""
    from torchvision.models import ResNet50_Weights  # slow to import

    known = dict(zip(class_ids("imagenet"), ResNet50_Weights.IMAGENET1K_V2.meta["categories"], strict=True))
    return [known.get(class_id, class_id) for class_id in ids]
