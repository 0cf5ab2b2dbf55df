"""Images in files: read as the published code does, but upright, and held as a list of names until they are needed."""

import hashlib
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import resize

SHORT_SIDE = 256  # pixels; every crop is taken from an image of this size
LONGEST = 100  # times the short side; a longer image would take gigabytes


def read_image(path: Path | str) -> Image.Image:
    """The picture in a file as 8-bit RGB, upright by its EXIF, its short side 256 px (bilinear, antialiased)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd EXIF and transparency
        with Image.open(path) as file:
            image = file
            with suppress(Exception):  # EXIF that says nothing sensible; what is wrong with the pixels shows below
                image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
                image = Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
            return resize(image.convert("RGB"), SHORT_SIDE)


def fault_of(path: Path | str) -> str:
    """Why the file cannot be read as an image, "" if it can. All of it is decoded, a JPEG at an eighth of its size."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if max(image.size) > LONGEST * min(image.size):
                    return f"{image.width} x {image.height} px, more than {LONGEST} times as long as wide"
                image.draft("RGB", (1, 1))
                image.load()
    except Exception as error:  # Pillow raises a dozen kinds for a bad file
        return reason_of(error)
    return ""


def reason_of(error: Exception) -> str:
    """An error that Pillow raised, in one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "no image that Pillow knows"  # its own words repeat the path
    return " ".join((getattr(error, "strerror", None) or str(error)).split()) or type(error).__name__


@dataclass(frozen=True)
class StreamedDataset:
    """A split whose images stay in their files, to be decoded when they are read.

    files: bytes (N,), names within `folder`. sizes: int64 (N,), their bytes when the folder was checked. targets: int64
    (N,), -1 where unknown, or None when nothing is labelled; for evaluation alone. classes: the names that targets
    count. num_workers: processes that read for a loader."""

    folder: Path
    files: np.ndarray
    sizes: np.ndarray
    targets: Tensor | None
    classes: list[str]
    num_workers: int = 0

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the names and sizes of the files, in order; neither labels nor pixels are in it."""
        return hashlib.sha256(b"\0".join(self.files.tolist()) + self.sizes.astype("<i8").tobytes()).hexdigest()

    def path(self, index: int) -> Path:
        return self.folder / os.fsdecode(self.files[index])

    def thinned(self, number: int) -> "StreamedDataset":
        """At most `number` of the images, evenly spaced over the order of the data set."""
        if number >= len(self):
            return self
        chosen = np.arange(number) * len(self) // number
        targets = None if self.targets is None else self.targets[chosen]
        return replace(self, files=self.files[chosen], sizes=self.sizes[chosen], targets=targets)

    def get_image(self, index: int) -> Image.Image:
        return read_image(self.path(index))
