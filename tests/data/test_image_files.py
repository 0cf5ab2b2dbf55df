"""Images of every kind come out as upright 8-bit RGB; files that cannot be read are recognised."""

import struct
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin
from torchvision import transforms

from data import image_files
from data.dataset import StreamedDataset
from data.image_files import fault_of, image_endings, read_image, read_square
from tests.image_trees import picture
from utils.console import warnings_ignored

RED, GREEN, BLUE, GREY = COLORS = (200, 40, 30), (20, 180, 60), (30, 50, 190), (128, 128, 128)
READERS = [read_image, lambda path: read_square(path, 256)]
both_readers = pytest.mark.parametrize("read", READERS, ids=["whole", "square"])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "image"


def quarters():
    """512 x 256 px, a colour in each quarter: top left, top right, bottom left, bottom right."""
    image = Image.new("RGB", (512, 256))
    for place, color in zip([(0, 0), (256, 0), (0, 128), (256, 128)], COLORS, strict=True):
        image.paste(color, (*place, place[0] + 256, place[1] + 128))
    return image


def shows(image, expected, by=12):
    """Whether the middles of the quarters have these colours."""
    width, height = image.size
    found = [image.getpixel((width * x // 4, height * y // 4)) for x, y in [(1, 1), (3, 1), (1, 3), (3, 3)]]
    return np.abs(np.array(found, dtype=int) - np.array(expected, dtype=int)).max() <= by


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (100, 90), (256, 900), (1, 1), (7, 600)])
def test_the_short_side_becomes_256_exactly_as_torchvision_resizes(path, size):
    picture(3, *size).save(path, "PNG")
    found = read_image(path)
    assert found.mode == "RGB" and min(found.size) == 256
    assert np.array_equal(np.asarray(found), np.asarray(transforms.Resize(256)(picture(3, *size))))


@both_readers
@pytest.mark.parametrize("kind", ["RGB JPEG", "CMYK JPEG", "P PNG", "RGBA PNG", "P GIF", "L PNG"])
def test_images_of_every_mode_keep_their_colours(kind, read, path):
    mode, file_format = kind.split()
    shown = quarters().quantize(8) if mode == "P" else quarters().convert(mode)
    shown.save(path, file_format)
    with Image.open(path) as stored:
        assert stored.mode == mode
    greys = [(value,) * 3 for value in (86, 118, 62, 128)]  # 0.299 R + 0.587 G + 0.114 B
    assert read(path).mode == "RGB" and shows(read(path), greys if mode == "L" else COLORS)


@both_readers
def test_images_of_16_bits_keep_their_high_byte(read, path):
    values = np.repeat(np.arange(256, dtype=np.uint16)[:, None] * 256 + 255, 256, axis=1)
    Image.fromarray(values).save(path, "PNG")
    assert np.array_equal(np.asarray(read(path))[:, 0, 0], np.arange(256))


UPRIGHT = {  # EXIF orientation: the quarters as shown, of stored red, green / blue, grey
    1: [RED, GREEN, BLUE, GREY],
    2: [GREEN, RED, GREY, BLUE],  # mirrored
    3: [GREY, BLUE, GREEN, RED],  # upside down
    4: [BLUE, GREY, RED, GREEN],
    5: [RED, BLUE, GREEN, GREY],  # along the diagonal
    6: [BLUE, RED, GREY, GREEN],  # to be turned clockwise
    7: [GREY, GREEN, BLUE, RED],
    8: [GREEN, GREY, RED, BLUE],  # to be turned anticlockwise
}


@both_readers
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_an_image_is_turned_as_its_exif_says(orientation, read, path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    quarters().save(path, "JPEG", exif=exif)
    assert shows(read(path), UPRIGHT[orientation])


def test_broken_exif_is_ignored_without_a_warning(path):
    quarters().save(path, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05garbage")
    dataset = StreamedDataset(path.parent, np.array([b"image"]), np.zeros(1), None, [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filters = list(warnings.filters)
        assert shows(dataset.get_image(0), COLORS)
        assert warnings.filters == filters


@pytest.mark.parametrize("mode, kind", [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "GIF"), ("RGBA", "WEBP")])
def test_transparent_pixels_become_white_in_a_square(mode, kind, path):
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 20, 40, 40))
    image.convert(mode).save(path, kind, lossless=True)
    white, black = (255,) * 3, (0,) * 3
    assert shows(read_square(path, 40), [white, white, black, black], by=0)


def test_the_first_of_several_frames_is_taken(path):
    first, second = (Image.new("RGB", (30, 30), color) for color in (RED, GREEN))
    first.save(path, "GIF", save_all=True, append_images=[second])
    assert shows(read_square(path, 30), [RED] * 4)


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3)])
def test_tiny_and_long_images_have_a_centre_square_too(size, path):
    Image.new("RGB", size, RED).save(path, "PNG")
    assert read_square(path, 32).size == (32, 32) and shows(read_square(path, 32), [RED] * 4, by=1)


def test_a_large_image_is_converted_in_strips_with_the_same_pixels(path, monkeypatch):
    image = picture(0, 90, 70).quantize(16)
    image.save(path, "PNG", transparency=bytes(range(0, 256, 16)))
    squares, parts, convert = [], [], image_files._on_white
    monkeypatch.setattr(image_files, "_on_white", lambda part: parts.append(part.size) or convert(part))
    for strip in (90 * 70, 1000, 1):
        monkeypatch.setattr(image_files, "STRIP", strip)
        parts.clear()
        squares.append(np.asarray(read_square(path, 40)))
        assert max(width * height for width, height in parts) <= max(strip, 90)
    whole = image_files._on_white(Image.open(path))
    expected = ImageOps.fit(whole, (40, 40), Image.Resampling.BILINEAR)
    assert all(np.array_equal(square, np.asarray(expected)) for square in squares)


def test_threads_decode_together_what_suffices_and_a_larger_image_alone(monkeypatch):
    monkeypatch.setattr(image_files, "TOGETHER", 10)
    monkeypatch.setattr(image_files, "_free", free := threading.Semaphore(10))
    held, most = [], []

    def decode(pixels):
        with image_files._memory_for(pixels):
            held.append(pixels)
            most.append(list(held))
            time.sleep(0.001)
            held.remove(pixels)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, [number * 2**20 for number in [4, 50, 3, 6, 9, 4, 99, 1] * 4]))
    assert all(sum(together) <= 10 * 2**20 or len(together) == 1 for together in most)
    assert max(map(len, most)) > 1 and all(free.acquire(blocking=False) for _ in range(10))


@both_readers
@pytest.mark.parametrize("compressed", [True, False])
def test_long_texts_in_a_png_do_not_keep_its_pixels_from_being_read(compressed, read, path):
    texts, profile = PngImagePlugin.PngInfo(), bytes(2_000_000)
    texts.add_text("workflow", "x" * 3_000_000, zip=compressed)
    texts.add_itxt("prompt", "y" * 3_000_000, zip=compressed)
    quarters().save(path, "PNG", pnginfo=texts, icc_profile=profile)
    with pytest.raises(ValueError), Image.open(path) as image:  # without us
        image.load()
    assert fault_of(path) == "" and shows(read(path), COLORS)


@both_readers
def test_a_text_that_turns_a_png_still_does(read, path):
    exif, texts = Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x0112] = 6
    content = exif.tobytes()
    texts.add_text("Raw profile type exif", f"\nexif\n{len(content):8}\n{content.hex()}\n", zip=True)
    quarters().save(path, "PNG", pnginfo=texts)
    assert shows(read(path), UPRIGHT[6])


def test_endings_are_those_of_images_that_pillow_reads():
    endings = image_endings()
    some = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", ".jfif", ".ppm", ".jp2"}
    assert some <= {*endings} and not {*endings} & {".h5", ".mpg", ".ps", ".pdf", ".txt", ".csv"}


@pytest.mark.parametrize("side, width", [(16, 64), (17, 128), (64, 256), (65, 512)])
def test_a_jpeg_is_decoded_at_the_smallest_size_that_leaves_twice_the_side(side, width, path, monkeypatch):
    sizes, fit = [], ImageOps.fit
    monkeypatch.setattr(ImageOps, "fit", lambda image, *rest: sizes.append(image.size) or fit(image, *rest))
    quarters().save(path, "JPEG")  # 512 x 256
    read_square(path, side)
    assert sizes == [(width, width // 2)]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_a_truncated_file_has_a_fault_and_raises(kind, path):
    picture(0, 300, 260).save(path, kind)
    assert fault_of(path) == ""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "truncated" in fault_of(path)
    with pytest.raises(OSError, match="truncated"):
        read_square(path, 32)


def test_files_that_are_no_images_or_missing_have_a_fault_without_their_path(path):
    for make in (lambda: None, lambda: path.write_bytes(b""), lambda: path.write_bytes(b"text")):
        make()
        assert (fault := fault_of(path)) and str(path) not in fault


def test_an_image_has_no_fault_when_memory_runs_out(path, monkeypatch):
    def load(_):
        raise MemoryError

    picture(0, 30, 30).save(path, "PNG")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(MemoryError):
        fault_of(path)


def test_values_below_zero_are_a_fault_and_not_black(path):
    for lowest in (0, -1):
        Image.fromarray(np.arange(lowest, lowest + 400, dtype=np.int32).reshape(20, 20)).save(path, "TIFF")
        assert ("below 0" in fault_of(path)) == (lowest < 0)
    with pytest.raises(ValueError, match="below 0"):
        read_square(path, 10)


@pytest.mark.parametrize("size, fault", [((501, 5), "501 x 5"), ((500, 5), ""), ((5, 501), "5 x 501")])
def test_an_image_more_than_100_times_as_long_as_wide_has_a_fault(size, fault, path):
    Image.new("RGB", size).save(path, "PNG")
    assert fault_of(path)[:7] == fault


def test_more_pixels_than_pillow_allows_have_a_fault_that_says_so(path, monkeypatch):
    picture(0, 30, 30).save(path, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with warnings_ignored():
        assert fault_of(path) == ""  # up to twice as many give a warning alone
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    assert "800" in fault_of(path) and "smaller" in fault_of(path)


def test_what_is_decoded_is_freed_before_other_threads_may_decode(path, monkeypatch):
    order, close = [], Image.Image.close
    quarters().save(path, "PNG")
    monkeypatch.setattr(Image.Image, "close", lambda image: order.append("closed") or close(image))
    monkeypatch.setattr(image_files._free, "release", lambda _: order.append("free"))
    read_square(path, 16)
    assert order == ["closed", "free"]


def test_16_bits_for_a_whole_pixel_are_no_16_bits_for_each_colour(path):
    """A BMP file with 5, 6 and 5 bits for red, green and blue."""
    header = struct.pack("<2sI4xIIiiHHIIiiII", b"BM", 98, 66, 40, 4, 4, 1, 16, 3, 32, 0, 0, 0, 0)
    path.write_bytes(header + struct.pack("<III", 0xF800, 0x7E0, 0x1F) + struct.pack("<H", 0x0841) * 16)
    dark = read_square(path, 4, bits=12)
    assert dark.info["highest"] == 0 and dark.getextrema() == ((8, 8),) * 3
