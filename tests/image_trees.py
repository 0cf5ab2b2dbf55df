"""Small trees of real JPEG files in the layout of ImageNet."""

from pathlib import Path

import numpy as np
from PIL import Image

from data.datasets.imagenet import FOLDERS, class_ids


def picture(seed: int, width: int, height: int) -> Image.Image:
    """A smooth coloured picture that no other seed gives."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_imagenet(folder: Path, name: str, train: int, val: int, num_classes=None) -> list[str]:
    """Images of two sizes, `train` and `val` of each of a subset's first classes; returns the class ids."""
    ids = class_ids(name)[:num_classes]
    for split, count, first in (("train", train, 0), ("val", val, 500)):
        for number, class_id in enumerate(ids):
            place = folder / FOLDERS[split] / class_id
            place.mkdir(parents=True)
            for i in range(count):
                size = (300, 260) if (i + number) % 2 else (270, 320)
                image = picture(1000 * number + i + first, *size)
                image.save(place / f"{class_id}_{i}.JPEG", quality=90)
    return ids
