"""Reads image files with Pillow: upright, as 8-bit RGB."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

SHORT_SIDE = 256  # pixels; all crops are taken from images of this size
MAX_ASPECT = 100  # long side over short side; a longer image would take gigabytes of memory
BILINEAR = Image.Resampling.BILINEAR


@contextmanager
def pillow_warnings_ignored() -> Iterator[None]:
    """Ignore Pillow's warnings about EXIF and transparency. Not for use in threads: filters are global."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_image(path: Path | str) -> Image.Image:
    """The image in a file as 8-bit RGB, upright by its EXIF, short side 256 px (bilinear, antialiased)."""
    with Image.open(path) as file:
        image = _upright(file).convert("RGB")
    short = min(image.size)
    return image.resize(tuple(int(SHORT_SIDE * length / short) for length in image.size), BILINEAR)


def read_square(file: Path | str | BinaryIO, side: int) -> Image.Image:
    """The centre square of the first image in a file, (side, side), 8-bit RGB, upright, antialiased.

    Transparent pixels become white. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that leaves at least
    twice `side`."""
    with Image.open(file) as image:
        image.draft("RGB", (2 * side, 2 * side))
        image = _upright(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return ImageOps.fit(image.convert("RGB"), (side, side), BILINEAR)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says, 8 bits a channel. Raises ValueError for floating-point pixels."""
    with suppress(Exception):  # broken EXIF; faults in the pixels show below
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown: save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
    return image


def fault_of(path: Path | str) -> str:
    """Why a file cannot be read as an image, "" if it can. It is decoded to the end, a JPEG at 1/8 size."""
    try:
        with Image.open(path) as image:
            if max(image.size) > MAX_ASPECT * min(image.size):
                return f"{image.width} x {image.height} px, sides beyond {MAX_ASPECT} to 1"
            image.draft("RGB", (1, 1))
            image.load()
    except Exception as error:  # Pillow raises a dozen kinds
        return reason_of(error)
    return ""


def reason_of(error: Exception) -> str:
    """What Pillow's error says, in one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "no image that Pillow knows"  # its own message repeats the path
    return " ".join((getattr(error, "strerror", None) or str(error)).split()) or type(error).__name__
