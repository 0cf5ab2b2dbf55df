"""What every data set offers: who the images are. How they are drawn and augmented is the loader's business."""

import hashlib
import os
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.image_files import read_image, read_square
from utils.arrays import evenly_spaced
from utils.device import near


class ImageList:
    """What both kinds of data set share: `len`, `targets` (int64 (N,), -1 where unknown, or None), `chosen`."""

    @property
    def is_labelled(self) -> bool:
        """Whether any image has a known label."""
        return self.targets is not None and bool((self.targets >= 0).any())

    def subset(self, number: int):
        """At most `number` of the images, evenly spaced over the order of the data set."""
        return self if number >= len(self) else self.select(evenly_spaced(number, len(self)))


@dataclass(frozen=True)
class StreamedDataset(ImageList):
    """A split whose images stay in their files, to be decoded when they are read.

    files: bytes (N,), names within `folder`. marks: (N,), what told each file from others when the folder was checked:
    its size in bytes, or the SHA-256 of its content. targets: int64 (N,), -1 where unknown, or None when nothing is
    labelled; for evaluation alone. classes: the names that targets count. num_workers: processes that read for a
    loader. side: of the centre square that an image is, pixels; None for the whole, its short side 256."""

    folder: Path
    files: np.ndarray
    marks: np.ndarray
    targets: Tensor | None
    classes: list[str]
    num_workers: int = 0
    side: int | None = None

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the names and marks of the files, in order, and of `side`; no labels are in it."""
        digest = hashlib.sha256(b"\0".join(self.files.tolist()) + self.marks.tobytes())
        digest.update(str(self.side or "").encode())
        return digest.hexdigest()

    def path(self, index: int) -> Path:
        return self.folder / os.fsdecode(self.files[index])

    def name(self, index: int) -> str:
        """The image for a reader: its file within the folder."""
        return os.fsdecode(self.files[index])

    def select(self, rows: Tensor) -> "StreamedDataset":
        """The images at int64 rows (M,), in that order."""
        targets = None if self.targets is None else self.targets[rows]
        return replace(self, files=self.files[rows.numpy()], marks=self.marks[rows.numpy()], targets=targets)

    def duplicates(self) -> list[list[int]]:
        """Groups of images whose files are the same to the last byte; [] where only their sizes are known."""
        groups = defaultdict(list)
        for row, mark in enumerate(self.marks.tolist() if self.side else []):
            groups[mark].append(row)
        return [rows for rows in groups.values() if len(rows) > 1]

    def get_image(self, index: int) -> Image.Image:
        path = self.path(index)
        return read_image(path) if self.side is None else read_square(path, self.side)


@dataclass(frozen=True)
class ResidentDataset(ImageList):
    """A split held in memory.

    images: uint8 (N, 3, H, W). targets: int64 (N,), -1 where unknown, or None when nothing is labelled; they are for
    evaluation alone. classes: the names that targets count. source: the files that the images were decoded from, if
    any."""

    images: Tensor
    targets: Tensor | None
    classes: list[str]
    source: StreamedDataset | None = None
    _copies: dict = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the images and their shape, or that of their files; labels are not in it."""
        if self.source:
            return self.source.fingerprint  # the same, whether they fit into memory or not
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy())
        return digest.hexdigest()

    def images_on(self, device: torch.device) -> Tensor:
        """The images where a loader for `device` reads them: on it, if they take at most a quarter of its free memory,
        else in host memory. All loaders share one copy."""
        if device not in self._copies:
            self._copies[device] = near(self.images, device)
        return self._copies[device]

    def name(self, index: int) -> str:
        """The image for a reader: its file, or its place in the data set."""
        return self.source.name(index) if self.source else str(index)

    def select(self, rows: Tensor) -> "ResidentDataset":
        """The images at int64 rows (M,), in that order."""
        targets = None if self.targets is None else self.targets[rows]
        return ResidentDataset(
            self.images[rows], targets, self.classes, self.source and self.source.select(rows)
        )

    def duplicates(self) -> list[list[int]]:
        """Groups of images whose files are the same to the last byte; [] where they do not come from files."""
        return self.source.duplicates() if self.source else []

    def get_image(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index].permute(1, 2, 0).numpy())
