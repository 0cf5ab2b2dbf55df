"""Images in files: read upright, and held as a list of names until they are needed."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps
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
