"""Reads image files with Pillow: upright, as 8-bit RGB, with little memory."""

import io
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from utils.device import return_freed_memory

SHORT_SIDE = 256  # pixels; crops are taken from images of this size
MAX_ASPECT = 100  # long side over short side; a longer image would take gigabytes of memory
BITS = 16  # of values of more than 8 bits, of which the highest 8 are taken
BILINEAR = Image.Resampling.BILINEAR
STRIP = 2**22  # pixels that are converted at once
LARGE = 2**25  # pixels
TOGETHER = 128  # times 2^20 pixels: what threads decode together; a larger image is decoded alone
NO_PICTURES = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}  # data, films, other programs'
PNG, TEXTS = b"\x89PNG\r\n\x1a\n", (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
ORIENTED = (b"Raw profile type exif", b"XML:com.adobe.xmp")  # texts that may say how an image is turned


def image_endings() -> tuple[str, ...]:
    """The endings of the image files that the installed Pillow reads, in small letters."""
    endings = Image.registered_extensions().items()
    readable = {*Image.OPEN, "MPO"} - NO_PICTURES
    return tuple(ending for ending, kind in endings if kind in readable)


def read_image(path: Path | str, short_side: int = SHORT_SIDE) -> Image.Image:
    """The image in a file as 8-bit RGB, upright by its EXIF, resized (bilinear, antialiased)."""
    with _decoded(path) as image:
        short = min(image.size)
        size = tuple(int(short_side * length / short) for length in image.size)
        return _in_strips(lambda strip: _in_8_bits(strip, BITS).convert("RGB"), image).resize(size, BILINEAR)


def read_square(file: Path | str | BinaryIO, side: int, bits: int = BITS) -> Image.Image:
    """The centre square of the first image in a file, (side, side), 8-bit RGB, upright, antialiased.

    Transparent pixels become white. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that leaves at least
    twice `side`. bits: of values of more than 8 bits; the highest one is in `info["highest"]`."""
    with _decoded(file, 2 * side) as image:
        highest = _highest(image)
        whole = _in_strips(lambda strip: _on_white(_in_8_bits(strip, bits)), image)
        square = ImageOps.fit(whole, (side, side), BILINEAR)
    square.info["highest"] = highest
    return square


def fault_of(path: Path | str) -> str:
    """Why a file cannot be read as an image, "" if it can. It is decoded to the end, a JPEG at 1/8 size."""
    try:
        with _decoded(path, 1, MAX_ASPECT):
            return ""
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds
        return reason_of(error)


def reason_of(error: Exception) -> str:
    """What Pillow's error says, in one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "no image that Pillow knows"  # its own message repeats the path
    if isinstance(error, Image.DecompressionBombError):
        return f"more pixels than Pillow's limit of {2 * Image.MAX_IMAGE_PIXELS:,}: make it smaller"
    return " ".join((getattr(error, "strerror", None) or str(error)).split()) or type(error).__name__


@contextmanager
def _decoded(file: Path | str | BinaryIO, draft: int = 0, max_aspect: float = math.inf):
    """A context with the first image in a file, upright by its EXIF. draft: the least side of a JPEG, if not
    the whole is needed. Raises ValueError for floating-point or negative pixels and a higher aspect."""
    with ExitStack() as stack:
        if isinstance(file, (str, Path)):
            file = stack.enter_context(open(file, "rb"))
        image = stack.enter_context(Image.open(_without_texts(file)))
        if max(image.size) > max_aspect * min(image.size):
            raise ValueError(f"{image.width} x {image.height} px, sides beyond {max_aspect} to 1")
        deep_colours = re.search("[^K];16[BLN]", str(image.tile))
        image.info["is_deep"] = image.mode.startswith("I") or deep_colours is not None
        if draft:
            image.draft("RGB", (draft, draft))
        pixels = image.width * image.height
        stack.enter_context(_memory_for(pixels))
        if pixels > LARGE:
            return_freed_memory()  # of the large image before it
        stack.callback(image.close)  # frees its memory before another thread may take some
        image.load()
        with suppress(Exception):  # broken EXIF
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode == "F":
            raise ValueError("floating-point pixels, whose range is unknown: save it with 8 or 16 bits")
        if image.mode == "I" and image.getextrema()[0] < 0:
            raise ValueError("values below 0 or above 2**31 - 1: save it with 8 or 16 bits, from 0 on")
        yield image


@contextmanager
def _memory_for(pixels: int) -> Iterator[None]:
    """A context in which an image may be decoded, which waits until other threads hold few enough pixels."""
    share = min(1 + pixels // 2**20, TOGETHER)
    with _next:
        for _ in range(share):
            _free.acquire()
    try:
        yield
    finally:
        _free.release(share)


_next, _free = threading.Lock(), threading.Semaphore(TOGETHER)


def _without_texts(file: BinaryIO) -> BinaryIO:
    """A PNG file without texts and colour profile, of which Pillow refuses long ones. Others stay."""
    if file.read(len(PNG)) != PNG:
        file.seek(0)
        return file
    content, start, kept = file.read(), 0, [PNG]
    while start < len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")  # length, kind, data, checksum
        if content[start + 4 : start + 8] not in TEXTS or content.startswith(ORIENTED, start + 8):
            kept.append(content[start:end])
        start = end
    return io.BytesIO(b"".join(kept))


def _in_strips(convert: Callable, image: Image.Image) -> Image.Image:
    """convert(image), pixel by pixel to RGB, but only a strip of it has further copies at a time."""
    rows = max(1, STRIP // image.width)
    if image.height <= rows:
        return convert(image)
    converted = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        converted.paste(convert(strip), (0, top))
    return converted


def _highest(image: Image.Image) -> int:
    """The highest value in an image of more than 8 bits, by the high byte alone for colours; 0 for others."""
    if not image.info["is_deep"]:
        return 0
    if image.mode.startswith("I"):
        return int(np.asarray(image).max())
    return 255 + 256 * int(np.max(image.convert("RGB").getextrema()))


def _in_8_bits(image: Image.Image, bits: int) -> Image.Image:
    """The highest 8 of the `bits` bits of each value, which Pillow would clip at 255."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> (bits - 8)).clip(0, 255).astype(np.uint8))
    if image.info["is_deep"] and bits < BITS:  # colours, of which Pillow has taken the high byte
        return image.point(lambda value: min(255, value << (BITS - bits)))
    return image


def _on_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
