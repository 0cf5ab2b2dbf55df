"""Images in files: read upright, and held as a list of names until they are needed."""

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import resize

SHORT_SIDE = 256  # pixels; every crop is taken from an image of this size
LONGEST = 100  # times the short side; a longer image would take gigabytes


def read_image(path: Path | str) -> Image.Image:
    """The picture in a file as 8-bit RGB, upright by its EXIF, its short side 256 px (bilinear, antialiased)."""
    with _opened(path) as file:
        return resize(_upright(file).convert("RGB"), SHORT_SIDE)


def read_square(file: Path | str | BinaryIO, side: int) -> Image.Image:
    """The centre square of the picture in a file, (side, side), 8-bit RGB, upright (bilinear, antialiased).

    The first frame of several. What is transparent shows white. A JPEG is decoded at a half, quarter or eighth of its
    size as long as that leaves at least twice `side`."""
    with _opened(file) as image:
        image.draft("RGB", (2 * side, 2 * side))
        image = _upright(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BILINEAR)


@contextmanager
def _opened(file: Path | str | BinaryIO) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd EXIF and transparency
        with Image.open(file) as image:
            yield image


def _upright(file: Image.Image) -> Image.Image:
    """Turned as its EXIF says, 8 bits a channel. Raises ValueError for floating-point pixels."""
    image = file
    with suppress(Exception):  # EXIF that says nothing sensible; what is wrong with the pixels shows below
        image = ImageOps.exif_transpose(file)
    if image.mode == "F":
        raise ValueError("numbers with a fraction, whose range is unknown: save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
        image = Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
    return image


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

    def chosen(self, rows: Tensor) -> "StreamedDataset":
        """The images at int64 rows (M,), in that order."""
        targets = None if self.targets is None else self.targets[rows]
        return replace(self, files=self.files[rows.numpy()], marks=self.marks[rows.numpy()], targets=targets)

    def thinned(self, number: int) -> "StreamedDataset":
        """At most `number` of the images, evenly spaced over the order of the data set."""
        return self if number >= len(self) else self.chosen(evenly_spaced(number, len(self)))

    def get_image(self, index: int) -> Image.Image:
        path = self.path(index)
        return read_image(path) if self.side is None else read_square(path, self.side)


def evenly_spaced(number: int, total: int) -> Tensor:
    """At most `number` of the rows 0 to total - 1, int64."""
    number = min(number, total)
    return torch.arange(number) * total // number
