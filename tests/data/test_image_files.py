"""Pictures of every kind come out as upright RGB of short side 256; files that cannot be read are told before."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision import transforms

from data.dataset import StreamedDataset
from data.image_files import fault_of, read_image, read_square
from tests.image_trees import picture

RED, GREEN, BLUE, GREY = (200, 40, 30), (20, 180, 60), (30, 50, 190), (128, 128, 128)


def quarters(mode="RGB", colors=(RED, GREEN, BLUE, GREY)):
    """A colour in each quarter: top left, top right, bottom left, bottom right; twice as wide as high."""
    image = Image.new("RGB", (512, 256))
    for place, color in zip([(0, 0), (256, 0), (0, 128), (256, 128)], colors, strict=True):
        image.paste(color, (*place, place[0] + 256, place[1] + 128))
    return image.quantize(8) if mode == "P" else image.convert(mode)


def quarters_of(image):
    """The colours in the middle of the quarters."""
    width, height = image.size
    places = [(1, 1), (3, 1), (1, 3), (3, 3)]
    return [image.getpixel((width * x // 4, height * y // 4)) for x, y in places]


def near(found, expected, by=12):
    return np.abs(np.array(found, dtype=int) - np.array(expected, dtype=int)).max() <= by


@pytest.mark.parametrize("width, height", [(500, 375), (375, 500), (100, 90), (256, 900), (1, 1), (7, 600)])
def test_the_short_side_becomes_256_as_torchvision_resizes(tmp_path, width, height):
    picture(3, width, height).save(tmp_path / "image.png")
    with Image.open(tmp_path / "image.png") as image:
        expected = transforms.Resize(256)(image.copy())
    found = read_image(tmp_path / "image.png")
    assert found.mode == "RGB" and min(found.size) == 256
    assert np.array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize(
    "mode, kind", [("RGB", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("P", "GIF")]
)
def test_colour_pictures_of_every_mode_keep_their_colours(mode, kind, tmp_path):
    quarters(mode).save(tmp_path / "image", kind)
    with Image.open(tmp_path / "image") as stored:
        assert stored.mode == mode
    found = read_image(tmp_path / "image")
    assert found.mode == "RGB" and near(quarters_of(found), [RED, GREEN, BLUE, GREY])


def test_grey_pictures_are_grey_in_all_three_channels(tmp_path):
    quarters("L", [(v, v, v) for v in (10, 90, 170, 250)]).save(tmp_path / "image.JPEG")
    assert near(
        quarters_of(read_image(tmp_path / "image.JPEG")), [(v, v, v) for v in (10, 90, 170, 250)], by=3
    )


def test_pictures_of_16_bits_keep_their_high_byte(tmp_path):
    values = np.repeat(np.arange(256, dtype=np.uint16)[:, None] * 256 + 255, 300, axis=1)
    Image.fromarray(values).save(tmp_path / "image.png")
    found = np.asarray(read_image(tmp_path / "image.png"))
    assert np.array_equal(found[:, 0, 0], np.arange(256))


def test_black_and_white_pictures_are_black_and_white(tmp_path):
    quarters("1", [(0, 0, 0), (255, 255, 255)] * 2).save(tmp_path / "image.png")
    black, white = (0, 0, 0), (255, 255, 255)
    assert quarters_of(read_image(tmp_path / "image.png")) == [black, white, black, white]


UPRIGHT = {  # EXIF orientation: the quarters when the picture is shown, of stored red, green / blue, grey
    1: [RED, GREEN, BLUE, GREY],
    2: [GREEN, RED, GREY, BLUE],  # mirrored
    3: [GREY, BLUE, GREEN, RED],  # upside down
    4: [BLUE, GREY, RED, GREEN],
    5: [RED, BLUE, GREEN, GREY],  # along the diagonal
    6: [BLUE, RED, GREY, GREEN],  # to be turned clockwise
    7: [GREY, GREEN, BLUE, RED],
    8: [GREEN, GREY, RED, BLUE],  # to be turned anticlockwise
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_picture_stands_as_its_exif_says(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    quarters().save(tmp_path / "image.JPEG", exif=exif)
    found = read_image(tmp_path / "image.JPEG")
    assert found.size == ((512, 256) if orientation < 5 else (256, 512))
    assert near(quarters_of(found), UPRIGHT[orientation])


def test_exif_that_says_nothing_sensible_is_no_reason_to_stop(tmp_path):
    quarters().save(tmp_path / "image.JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05garbage")
    assert near(quarters_of(read_image(tmp_path / "image.JPEG")), [RED, GREEN, BLUE, GREY])


# -- own pictures: the centre square


@pytest.mark.parametrize(
    "mode, kind", [("RGB", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("P", "GIF")]
)
def test_the_centre_square_of_every_mode_keeps_its_colours(mode, kind, tmp_path):
    quarters(mode).save(tmp_path / "image", kind)
    found = read_square(tmp_path / "image", 64)  # of 512 x 256: a JPEG is decoded at half its size
    assert (
        found.mode == "RGB" and found.size == (64, 64) and near(quarters_of(found), [RED, GREEN, BLUE, GREY])
    )


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_centre_square_stands_as_its_exif_says(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    quarters().save(tmp_path / "image.JPEG", exif=exif)
    assert near(quarters_of(read_square(tmp_path / "image.JPEG", 64)), UPRIGHT[orientation])


@pytest.mark.parametrize("mode, kind", [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "GIF"), ("RGBA", "WEBP")])
def test_what_is_transparent_shows_white(mode, kind, tmp_path):
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 20, 40, 40))
    image.convert(mode).save(tmp_path / "image", kind, lossless=True)
    found = read_square(tmp_path / "image", 40)
    assert found.getpixel((20, 5)) == (255, 255, 255) and found.getpixel((20, 35)) == (0, 0, 0)


def test_the_first_of_several_frames_is_taken(tmp_path):
    frames = [Image.new("RGB", (30, 30), color) for color in (RED, GREEN)]
    frames[0].save(tmp_path / "image.gif", save_all=True, append_images=frames[1:])
    assert near([read_square(tmp_path / "image.gif", 30).getpixel((15, 15))], [RED])


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3)])
def test_tiny_and_long_pictures_have_a_centre_square_too(size, tmp_path):
    Image.new("RGB", size, RED).save(tmp_path / "image.png")
    found = read_square(tmp_path / "image.png", 32)
    assert found.size == (32, 32) and near(
        [found.getpixel((0, 0)), found.getpixel((31, 31))], [RED, RED], by=1
    )


def test_pictures_of_16_bits_keep_their_high_byte_as_squares_too(tmp_path):
    values = np.repeat(np.arange(256, dtype=np.uint16)[:, None] * 256 + 255, 256, axis=1)
    Image.fromarray(values).save(tmp_path / "image.png")
    assert np.array_equal(np.asarray(read_square(tmp_path / "image.png", 256))[:, 0, 0], np.arange(256))


@pytest.mark.parametrize(
    "side, decoded", [(16, (64, 32)), (17, (128, 64)), (64, (256, 128)), (65, (512, 256))]
)
def test_a_jpeg_is_decoded_at_the_smallest_size_that_leaves_twice_the_side(
    side, decoded, tmp_path, monkeypatch
):
    sizes, fit = [], ImageOps.fit
    monkeypatch.setattr(
        ImageOps, "fit", lambda image, *options: sizes.append(image.size) or fit(image, *options)
    )
    quarters().save(tmp_path / "image", "JPEG")  # 512 x 256
    read_square(tmp_path / "image", side)
    assert sizes == [decoded]


def test_half_a_file_is_an_error_that_a_square_raises(tmp_path):
    path = tmp_path / "image.JPEG"
    picture(0, 300, 260).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(OSError, match="truncated"):
        read_square(path, 32)


# -- what cannot be read


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_a_sound_file_has_no_fault_and_half_of_one_has(kind, tmp_path):
    path = tmp_path / "image"
    picture(0, 300, 260).save(path, kind)
    assert fault_of(path) == ""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "truncated" in fault_of(path)


@pytest.mark.parametrize(
    "content, words", [(b"", "no image that Pillow knows"), (b"text", "no image that Pillow knows")]
)
def test_a_file_that_is_no_image_is_said_to_be_none(content, words, tmp_path):
    (tmp_path / "image.JPEG").write_bytes(content)
    assert fault_of(tmp_path / "image.JPEG") == words


def test_a_file_that_is_not_there_is_a_fault_in_the_systems_words(tmp_path):
    assert fault_of(tmp_path / "image.JPEG") == "No such file or directory"


# -- a data set of files


@pytest.fixture
def dataset(tmp_path):
    for number in range(10):
        picture(number, 260, 270).save(tmp_path / f"{number}.png")
    files = np.array([f"{number}.png".encode() for number in range(10)])
    return StreamedDataset(tmp_path, files, np.arange(10), torch.arange(10) % 3, ["a", "b", "c"])


def test_an_image_is_read_when_it_is_asked_for(dataset, tmp_path):
    expected = transforms.Resize(256)(picture(7, 260, 270))
    assert np.array_equal(np.asarray(dataset.get_image(7)), np.asarray(expected))
    assert dataset.path(7) == tmp_path / "7.png" and len(dataset) == 10


def test_thinning_takes_evenly_spaced_images_with_their_labels(dataset):
    thin = dataset.subset(4)  # 0, 10/4, 20/4, 30/4
    assert thin.files.tolist() == [b"0.png", b"2.png", b"5.png", b"7.png"]
    assert (
        thin.marks.tolist() == [0, 2, 5, 7]
        and thin.targets.tolist() == [0, 2, 2, 1]
        and thin.classes == ["a", "b", "c"]
    )
    assert dataset.subset(10) is dataset and dataset.subset(11) is dataset


def test_the_fingerprint_follows_names_sizes_and_their_order_alone(dataset):
    files, sizes = dataset.files, dataset.marks
    others = [
        (files[::-1], sizes),
        (files[:9], sizes[:9]),
        (np.array([b"a", *files[1:]]), sizes),
        (files, sizes + 1),
    ]
    changed = [StreamedDataset(dataset.folder, *other, None, []).fingerprint for other in others]
    assert len({dataset.fingerprint, *changed}) == 5
    assert StreamedDataset(dataset.folder, files, sizes, None, []).fingerprint == dataset.fingerprint


def test_a_picture_that_would_take_gigabytes_is_said_to_be_too_long(tmp_path):
    Image.new("RGB", (501, 5)).save(tmp_path / "image.png")
    assert fault_of(tmp_path / "image.png") == "501 x 5 px, more than 100 times as long as wide"
    Image.new("RGB", (5, 500)).save(tmp_path / "image.png")
    assert fault_of(tmp_path / "image.png") == ""
