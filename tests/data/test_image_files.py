"""Images of every kind come out as upright 8-bit RGB; files that cannot be read are recognised."""

import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision import transforms

from data.dataset import StreamedDataset
from data.image_files import fault_of, read_image, read_square
from tests.image_trees import picture

RED, GREEN, BLUE, GREY = (200, 40, 30), (20, 180, 60), (30, 50, 190), (128, 128, 128)
READERS = [read_image, lambda path: read_square(path, 64)]
both_readers = pytest.mark.parametrize("read", READERS, ids=["whole", "square"])


def quarters(mode="RGB", colors=(RED, GREEN, BLUE, GREY)):
    """512 x 256 px, a colour in each quarter: top left, top right, bottom left, bottom right."""
    image = Image.new("RGB", (512, 256))
    for place, color in zip([(0, 0), (256, 0), (0, 128), (256, 128)], colors, strict=True):
        image.paste(color, (*place, place[0] + 256, place[1] + 128))
    return image.quantize(8) if mode == "P" else image.convert(mode)


def colors_of(image):
    """The colours in the middle of the quarters."""
    width, height = image.size
    return [image.getpixel((width * x // 4, height * y // 4)) for x, y in [(1, 1), (3, 1), (1, 3), (3, 3)]]


def near(found, expected, by=12):
    return np.abs(np.array(found, dtype=int) - np.array(expected, dtype=int)).max() <= by


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "size", [(500, 375), (375, 500), (100, 90), (256, 900), (256, 256), (1, 1), (7, 600), (333, 1000)]
)
def test_the_short_side_becomes_256_exactly_as_torchvision_resizes(tmp_path, size):
    picture(3, *size).save(tmp_path / "image.png")
    found = read_image(tmp_path / "image.png")
    assert found.mode == "RGB" and min(found.size) == 256
    assert np.array_equal(np.asarray(found), np.asarray(transforms.Resize(256)(picture(3, *size))))


@both_readers
@pytest.mark.parametrize(
    "mode, kind", [("RGB", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("P", "GIF")]
)
def test_colour_images_of_every_mode_keep_their_colours(mode, kind, read, tmp_path):
    quarters(mode).save(tmp_path / "image", kind)
    with Image.open(tmp_path / "image") as stored:
        assert stored.mode == mode
    found = read(tmp_path / "image")
    assert found.mode == "RGB" and near(colors_of(found), [RED, GREEN, BLUE, GREY])


@pytest.mark.parametrize("mode, values", [("L", (10, 90, 170, 250)), ("1", (0, 255, 0, 255))])
def test_grey_and_black_and_white_images_have_three_equal_channels(mode, values, tmp_path):
    quarters(mode, [(value,) * 3 for value in values]).save(tmp_path / "image.png")
    assert colors_of(read_image(tmp_path / "image.png")) == [(value,) * 3 for value in values]


@pytest.mark.parametrize("read", [read_image, lambda path: read_square(path, 256)], ids=["whole", "square"])
def test_images_of_16_bits_keep_their_high_byte(read, tmp_path):
    values = np.repeat(np.arange(256, dtype=np.uint16)[:, None] * 256 + 255, 256, axis=1)
    Image.fromarray(values).save(tmp_path / "image.png")
    assert np.array_equal(np.asarray(read(tmp_path / "image.png"))[:, 0, 0], np.arange(256))


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
def test_an_image_is_turned_as_its_exif_says(orientation, read, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    quarters().save(tmp_path / "image.JPEG", exif=exif)
    assert near(colors_of(read(tmp_path / "image.JPEG")), UPRIGHT[orientation])


def test_broken_exif_is_ignored_without_a_warning(tmp_path):
    quarters().save(tmp_path / "image.JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05garbage")
    dataset = StreamedDataset(tmp_path, np.array([b"image.JPEG"]), np.zeros(1), None, [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filters = list(warnings.filters)
        assert near(colors_of(dataset.get_image(0)), [RED, GREEN, BLUE, GREY])
        assert warnings.filters == filters


@pytest.mark.parametrize("mode, kind", [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "GIF"), ("RGBA", "WEBP")])
def test_transparent_pixels_become_white_in_a_square(mode, kind, tmp_path):
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 20, 40, 40))
    image.convert(mode).save(tmp_path / "image", kind, lossless=True)
    found = read_square(tmp_path / "image", 40)
    assert found.getpixel((20, 5)) == (255, 255, 255) and found.getpixel((20, 35)) == (0, 0, 0)


def test_the_first_of_several_frames_is_taken(tmp_path):
    frames = [Image.new("RGB", (30, 30), color) for color in (RED, GREEN)]
    frames[0].save(tmp_path / "image.gif", save_all=True, append_images=frames[1:])
    assert near(read_square(tmp_path / "image.gif", 30).getpixel((15, 15)), RED)


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3)])
def test_tiny_and_long_images_have_a_centre_square_too(size, tmp_path):
    Image.new("RGB", size, RED).save(tmp_path / "image.png")
    found = read_square(tmp_path / "image.png", 32)
    assert found.size == (32, 32) and near(
        [found.getpixel((0, 0)), found.getpixel((31, 31))], [RED, RED], by=1
    )


@pytest.mark.parametrize(
    "side, decoded", [(16, (64, 32)), (17, (128, 64)), (64, (256, 128)), (65, (512, 256))]
)
def test_a_jpeg_is_decoded_at_the_smallest_size_that_leaves_twice_the_side(
    side, decoded, tmp_path, monkeypatch
):
    sizes, fit = [], ImageOps.fit
    monkeypatch.setattr(ImageOps, "fit", lambda image, *rest: sizes.append(image.size) or fit(image, *rest))
    quarters().save(tmp_path / "image", "JPEG")  # 512 x 256
    read_square(tmp_path / "image", side)
    assert sizes == [decoded]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_a_truncated_file_has_a_fault_and_raises(kind, tmp_path):
    picture(0, 300, 260).save(tmp_path / "image", kind)
    assert fault_of(tmp_path / "image") == ""
    cut(tmp_path / "image")
    assert "truncated" in fault_of(tmp_path / "image")
    with pytest.raises(OSError, match="truncated"):
        read_square(tmp_path / "image", 32)


def test_files_that_are_no_images_or_missing_have_a_fault_without_their_path(tmp_path):
    for content in (b"", b"text"):
        (tmp_path / "image.JPEG").write_bytes(content)
        assert (fault := fault_of(tmp_path / "image.JPEG")) and "image.JPEG" not in fault
    assert fault_of(tmp_path / "gone.JPEG") == "No such file or directory"


def test_an_image_more_than_100_times_as_long_as_wide_has_a_fault(tmp_path):
    Image.new("RGB", (501, 5)).save(tmp_path / "image.png")
    assert "501 x 5" in fault_of(tmp_path / "image.png")
    Image.new("RGB", (5, 500)).save(tmp_path / "image.png")
    assert fault_of(tmp_path / "image.png") == ""
