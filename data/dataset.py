"""Data sets: which images there are, and their labels. Drawing and augmenting them is the loader's work."""

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

from data.image_files import BITS, SHORT_SIDE, read_image, read_square
from utils.arrays import evenly_spaced
from utils.console import warnings_ignored
from utils.device import near
from utils.errors import UserError


class ImageDataset:
    """One split of a data set. targets: int64 (N,), -1 where unknown, or None; for evaluation only. classes:
    their names. source: the files that the images come from, or None."""

    @property
    def is_labelled(self) -> bool:
        """Whether any image has a known label."""
        return self.targets is not None and bool((self.targets >= 0).any())

    def subset(self, number: int):
        """At most `number` of the images, evenly spaced over the data set."""
        return self if number >= len(self) else self.select(evenly_spaced(number, len(self)))

    def name(self, index: int) -> str:
        """The name of the image's file within its folder, or the index."""
        return os.fsdecode(self.source.files[index]) if self.source else str(index)

    def duplicates(self) -> list[list[int]]:
        """Groups of images whose files have the same bytes; [] where no SHA-256 of the files is known."""
        groups = defaultdict(list)
        for row, digest in enumerate(self.source.signatures.tolist() if self.source else []):
            groups[digest].append(row)
        return [rows for digest, rows in groups.items() if len(rows) > 1 and isinstance(digest, bytes)]


@dataclass(frozen=True)
class StreamedDataset(ImageDataset):
    """A split whose images are decoded when they are read.

    files: bytes (N,), names within `folder`. signatures: (N,), the size of each file, or its SHA-256 as
    hexadecimal bytes. num_workers: of a loader. side: of the centre square in pixels; None for the whole
    image with a short side of `short_side`. bits: of values in files of more than 8 bits."""

    folder: Path
    files: np.ndarray
    signatures: np.ndarray
    targets: Tensor | None
    classes: list[str]
    num_workers: int = 0
    side: int | None = None
    bits: int = BITS
    short_side: int = SHORT_SIDE

    def __len__(self) -> int:
        return len(self.files)

    @property
    def source(self) -> "StreamedDataset":
        return self

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the file names, the signatures and how they are read; it does not depend on labels."""
        look = f"{self.side or ''}" + (f", {self.bits} bits" if self.bits != BITS else "")
        look += f"short side {self.short_side}" if self.short_side != SHORT_SIDE else ""
        content = b"\0".join(self.files.tolist()) + self.signatures.tobytes() + look.encode()
        return hashlib.sha256(content).hexdigest()

    def path(self, index: int) -> Path:
        return self.folder / self.name(index)

    def select(self, rows: Tensor) -> "StreamedDataset":
        """The images at int64 rows (M,), in that order."""
        files, signatures = self.files[rows.numpy()], self.signatures[rows.numpy()]
        targets = None if self.targets is None else self.targets[rows]
        return replace(self, files=files, signatures=signatures, targets=targets)

    def get_image(self, index: int) -> Image.Image:
        with warnings_ignored():
            path = self.path(index)
            if self.side is None:
                return read_image(path, self.short_side)
            return read_square(path, self.side, self.bits)


@dataclass(frozen=True)
class ResidentDataset(ImageDataset):
    """A split held in memory. images: uint8 (N, 3, H, W)."""

    images: Tensor
    targets: Tensor | None
    classes: list[str]
    source: StreamedDataset | None = None
    _copies: dict = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the images and their shape; of images from files the same as if they were streamed."""
        if self.source:
            return self.source.fingerprint
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy())
        return digest.hexdigest()

    def images_on(self, device: torch.device) -> Tensor:
        """The images for all loaders, on the device if they take at most a quarter of its free memory."""
        if device not in self._copies:
            self._copies[device] = near(self.images, device)
        return self._copies[device]

    def select(self, rows: Tensor) -> "ResidentDataset":
        targets = None if self.targets is None else self.targets[rows]
        source = self.source and self.source.select(rows)
        return type(self)(self.images[rows], targets, self.classes, source)

    def get_image(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index].permute(1, 2, 0).numpy())


class FeatureDataset(ResidentDataset):
    """A split of ready features in place of images, float32 (N, D). Its files are read for figures alone."""

    def get_image(self, index: int) -> Image.Image:
        try:
            return self.source.get_image(index)
        except Exception as error:  # Pillow raises a dozen kinds
            remedy = "give the folder in which the images lie as folder.path=..."
            raise UserError(f"{self.source.path(index)} cannot be shown: {remedy}") from error
