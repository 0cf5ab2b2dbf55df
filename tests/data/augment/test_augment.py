"""What is drawn, in distribution; and what is applied, against Pillow and torchvision on one picture at a time.

`expected(transform, images, table)` is the specification: it takes each image through the steps by itself, as a
Pillow picture, with the numbers of its row of the table."""

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from easydict import EasyDict
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats
from torchvision.transforms import functional as F

from data.augment import apply, draw, train_transform, val_transform
from data.augment.crops import CenterCrop, HorizontalFlip, RandomCrop, RandomResizedCrop
from data.augment.steps import ColorJitter, Cutout, Greyscale, Normalize, RandomAffine
from data.augment.strong import STRONG_OPERATIONS, StrongOperations
from utils.config import load_config
from utils.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs"
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]  # CIFAR-10
DRAWS = 6000
LARGEST = 1 - 2**-24  # that torch.rand draws in float32
AFFINE = {"degrees": 15.0, "scale": [0.8, 1.2], "aspect": [0.8, 1.2], "shear": 0.2, "translate": 0.15}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def of_kind(name, **kwargs):
    return train_transform(name, EasyDict(kwargs))


def published(path):
    cfg = load_config(None, CONFIGS / path)
    return train_transform(cfg.augmentation_strategy, cfg.augmentation_kwargs)


@cache
def transforms():
    """One of each kind: the published ones, and two of our own."""
    normalize, cutout = {"mean": MEAN, "std": STD}, {"n_holes": 1, "length": 5, "random": True}
    jitter = {"brightness": 0.4}
    return {
        "standard": of_kind("standard", random_resized_crop={"size": 20}, normalize=normalize),
        "simclr": published("pretext/simclr_cifar10.yml"),
        "ours": published("scan/scan_cifar10.yml"),
        "affine": of_kind(
            "affine", random_affine=AFFINE, color_jitter=jitter, normalize=normalize, cutout_kwargs=cutout
        ),
    }


@pytest.fixture(params=["standard", "simclr", "ours", "affine"])
def transform(request):
    return transforms()[request.param]


# -- the specification, one picture and one step at a time


def box_of(step, row, height, width):
    """Ten tries of area share and aspect, the first that fits; else the centre, as large as the ratio allows."""
    areas, aspects, (down, across) = row[:10], row[10:20], row[20:]
    for area, aspect in zip(areas, aspects, strict=True):
        box_width = round(math.sqrt(height * width * area * aspect))
        box_height = round(math.sqrt(height * width * area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = int(down * (height - box_height + 1)), int(across * (width - box_width + 1))
            return top, left, box_height, box_width
    box_height, box_width = height, width
    if width / height < step.ratio[0]:
        box_height = round(width / step.ratio[0])
    elif width / height > step.ratio[1]:
        box_width = round(height * step.ratio[1])
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def resize_crop(step, picture, row):
    top, left, height, width = box_of(step, row, picture.height, picture.width)
    return F.resized_crop(picture, top, left, height, width, [step.size, step.size])


def flip(step, picture, row):
    return ImageOps.mirror(picture) if row[0] else picture


def jitter(step, picture, row):
    chosen, amounts, order = row[0], row[1:5], row[5:]
    adjust = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]
    for number in map(int, order) if chosen else ():
        if [step.brightness, step.contrast, step.saturation, step.hue][number]:
            picture = adjust[number](picture, amounts[number])
    return picture


def grey(step, picture, row):
    return F.rgb_to_grayscale(picture, num_output_channels=3) if row[0] else picture


def crop_anywhere(step, picture, row):
    top, left = int(row[0] * (picture.height - step.size + 1)), int(row[1] * (picture.width - step.size + 1))
    return picture.crop((left, top, left + step.size, top + step.size))


def crop_centre(step, picture, row):
    return F.center_crop(picture, step.size)


def transformed(picture, *matrix, resample=Image.NEAREST):
    return picture.transform(picture.size, Image.AFFINE, matrix, resample)


PILLOW = {  # the 14 strong operations of SCAN
    "identity": lambda picture, _: picture,
    "autocontrast": lambda picture, _: ImageOps.autocontrast(picture),
    "equalize": lambda picture, _: ImageOps.equalize(picture),
    "solarize": ImageOps.solarize,
    "posterize": lambda picture, bits: ImageOps.posterize(picture, int(bits)),
    "color": lambda picture, factor: ImageEnhance.Color(picture).enhance(factor),
    "contrast": lambda picture, factor: ImageEnhance.Contrast(picture).enhance(factor),
    "brightness": lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor),
    "sharpness": lambda picture, factor: ImageEnhance.Sharpness(picture).enhance(factor),
    "shear x": lambda picture, shear: transformed(picture, 1, shear, 0, 0, 1, 0),
    "shear y": lambda picture, shear: transformed(picture, 1, 0, 0, shear, 1, 0),
    "translate x": lambda picture, share: transformed(picture, 1, 0, share * picture.width, 0, 1, 0),
    "translate y": lambda picture, share: transformed(picture, 1, 0, 0, 0, 1, share * picture.height),
    "rotate": Image.Image.rotate,
}


def strong(step, picture, row):
    for number, magnitude in zip(row[: step.number], row[step.number :], strict=True):
        picture = PILLOW[list(STRONG_OPERATIONS)[int(number)]](picture, magnitude)
    return picture


def affine_about_the_centre(step, picture, row):
    angle, across, down, shear, shift_x, shift_y = row
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y = picture.width / 2, picture.height / 2
    forward = (
        np.array([[1, 0, x + shift_x * picture.width], [0, 1, y + shift_y * picture.height], [0, 0, 1]])
        @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        @ np.array([[1, shear, 0], [0, 1, 0], [0, 0, 1]])
        @ np.diag([across, down, 1])
        @ np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]])
    )
    return transformed(picture, *np.linalg.inv(forward)[:2].flatten(), resample=Image.BILINEAR)


def normalize(step, picture, row):
    return F.normalize(F.to_tensor(picture), step.mean, step.std)


def cut_out(step, image, row):
    half, (height, width) = int(row[0]) // 2, image.shape[1:]
    for down, across in zip(row[1::2], row[2::2], strict=True):
        y, x = int(down * height), int(across * width)
        for i in range(max(y - half, 0), min(y + half, height)):
            for j in range(max(x - half, 0), min(x + half, width)):
                image[:, i, j] = 0
    return image


REFERENCE = {
    RandomResizedCrop: resize_crop,
    HorizontalFlip: flip,
    ColorJitter: jitter,
    Greyscale: grey,
    RandomCrop: crop_anywhere,
    CenterCrop: crop_centre,
    StrongOperations: strong,
    RandomAffine: affine_about_the_centre,
    Normalize: normalize,
    Cutout: cut_out,
}


def expected(transform, images, table):
    """(B, 3, h, w): uint8 up to Normalize, float after it."""
    done = []
    for image, values in zip(images, table, strict=True):
        picture = F.to_pil_image(image) if image.dtype == torch.uint8 else image.clone()
        for step, row in zip(transform, values.split([step.columns for step in transform]), strict=True):
            picture = REFERENCE[type(step)](step, picture, row.tolist())
        done.append(F.pil_to_tensor(picture) if isinstance(picture, Image.Image) else picture)
    return torch.stack(done)


def grey_levels_off(transform, images, table=None):
    """By how many grey levels of 256 `apply` is off, before normalising or after: float (B, 3, h, w)."""
    table = draw(transform, len(images), seeded()) if table is None else table
    found, right = apply(transform, images, table), expected(transform, images, table)
    assert found.shape == right.shape and found.dtype == right.dtype
    if found.dtype == torch.uint8:
        return (found.float() - right.float()).abs()
    std = [step.std for step in transform if isinstance(step, Normalize)]
    return (found - right).abs() * 255 * torch.tensor(std).view(1, 3, 1, 1)


# -- each step against the specification


@pytest.mark.parametrize(
    "step",
    [
        HorizontalFlip(),
        Greyscale(0.5),
        ColorJitter(0.8, brightness=0.4, contrast=0.4, saturation=0.4),
        ColorJitter(1.0, brightness=1.5),
        *(crop(size) for crop in (RandomCrop, CenterCrop) for size in (24, 17)),
        StrongOperations(4),
    ],
    ids=str,
)
def test_a_step_is_pillows_to_the_bit_each_image_with_its_own_numbers(step, images):
    assert grey_levels_off((step,), images).max() == 0


@pytest.mark.parametrize("name", PILLOW)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_each_of_the_14_strong_operations_is_pillows_to_the_bit(name, share, images):
    low, high, _ = STRONG_OPERATIONS[name]
    row = torch.tensor([list(STRONG_OPERATIONS).index(name), low + (high - low) * share])
    assert grey_levels_off((StrongOperations(1),), images, row.expand(len(images), -1)).max() == 0


def test_there_are_14_strong_operations_with_the_ranges_of_the_paper():
    assert {name: entry[:2] for name, entry in STRONG_OPERATIONS.items()} == {
        "identity": (0, 0),
        "autocontrast": (0, 0),
        "equalize": (0, 0),
        "solarize": (0, 256),
        "posterize": (4, 8),  # rounded down: 4 to 7 bits
        **dict.fromkeys(["color", "contrast", "brightness", "sharpness"], (0.05, 0.95)),
        **dict.fromkeys(["shear x", "shear y", "translate x", "translate y"], (-0.1, 0.1)),
        "rotate": (-30, 30),
    }


@pytest.mark.parametrize("size", [14, 32, 60], ids="to {} px".format)
def test_a_random_resized_crop_is_torchvisions_within_one_grey_level(size, images):
    assert grey_levels_off((RandomResizedCrop(size),), images).max() <= 1


def test_a_random_affine_is_pillows_with_a_matrix_composed_from_its_parts_within_one_grey_level(images):
    off = grey_levels_off((RandomAffine(**AFFINE),), images)
    assert off.max() <= 1
    assert (off > 0).float().mean() < 0.04


def test_the_whole_colour_jitter_is_torchvisions_but_for_its_steps_of_hue(images):
    off = grey_levels_off((ColorJitter(0.8, 0.4, 0.4, 0.4, 0.1),), images)
    assert off.max() <= 16  # a step of hue is 6 levels, which the other operations may make more
    assert (off > 0).float().mean() < 0.005


@pytest.mark.parametrize("cutout", [Cutout(1, 16), Cutout(3, 9), Cutout(1, 100)], ids=str)
def test_cutout_is_a_loop_over_the_pixels_of_each_hole(cutout):
    images = torch.ones(60, 3, 20, 28)
    table = draw((cutout,), 60, seeded())
    assert torch.equal(apply((cutout,), images, table), expected((cutout,), images, table))


def test_cutout_with_length_5_leaves_4_rows_and_columns_at_0():
    found = apply((Cutout(1, 5),), torch.ones(2, 3, 9, 9), torch.tensor([[5, 0.5, 0.5], [5, 0, 0.95]]))
    holes = torch.ones(2, 3, 9, 9)
    holes[0, :, 2:6, 2:6] = 0  # centre 4: from 4 - 2 to 4 + 2 - 1
    holes[1, :, :2, 6:] = 0  # centre (0, 8), clipped
    assert torch.equal(found, holes)


# -- the boxes of the random resized crop


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40), (61, 37)])
@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.001, 0.01), (0.9, 1.0), (3.0, 4.0)], ids=str)
def test_boxes_are_those_of_a_loop_over_the_tries_and_lie_inside_the_image(scale, height, width):
    step = RandomResizedCrop(16, scale)
    values = step.draw(500, seeded())
    values[:100, 20:] = LARGEST
    boxes = step.boxes(values, height, width)
    assert boxes.tolist() == [list(box_of(step, row, height, width)) for row in values.tolist()]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= torch.tensor([height, width])).all()


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (32, 32, [0, 0, 32, 32]),
        (31, 80, [0, 19, 31, 41]),  # 4 : 3 at most
        (91, 30, [25, 0, 40, 30]),  # 3 : 4 at least
    ],
)
def test_where_no_try_fits_the_box_is_the_centre_as_large_as_the_ratio_allows(height, width, box):
    step = RandomResizedCrop(16, scale=(3.0, 4.0))  # three times the image
    assert step.boxes(step.draw(5, seeded()), height, width).tolist() == [box] * 5


def test_the_first_try_that_fits_is_taken():
    tries = torch.tensor([[9.0, 0.001, 0.25, 0.5] + [9.0] * 6])  # too large, less than a pixel, fits, fits
    values = torch.cat([tries, torch.ones(1, 10), torch.tensor([[0.0, LARGEST]])], dim=1)
    assert RandomResizedCrop(4).boxes(values, 8, 8).tolist() == [[0, 4, 4, 4]]


# -- what is drawn


def assert_uniform(values, low, high):
    assert values.min() >= low and values.max() <= high
    assert stats.kstest(values.double(), stats.uniform(low, high - low).cdf).pvalue > 1e-4


def assert_equally_often(values, outcomes):
    found, counts = values.unique(return_counts=True)
    assert found.tolist() == pytest.approx(list(outcomes))
    assert stats.chisquare(counts).pvalue > 1e-4


def assert_share(happened, p):
    """Within four standard errors of the binomial distribution."""
    assert abs(happened.float().mean() - p) < 4 * math.sqrt(p * (1 - p) / len(happened))


def numbered_pixels(height, width, count=DRAWS):
    """The image whose pixel y, x has the value y * width + x."""
    image = torch.arange(height * width, dtype=torch.uint8).view(1, 1, height, width)
    return image.expand(count, 3, height, width)


def applied(step, images, seed=0):
    return apply((step,), images, draw((step,), len(images), seeded(seed)))


def test_half_of_the_images_are_flipped():
    image = numbered_pixels(1, 2)
    assert_share(applied(HorizontalFlip(), image)[:, 0, 0, 0] == 1, 0.5)


@pytest.mark.parametrize("p", [0.2, 0.8])
def test_greyscale_and_jitter_happen_with_their_probability(p):
    red = torch.tensor([200, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(DRAWS, 3, 2, 2)
    assert_share(applied(Greyscale(p), red)[:, 0, 0, 0] < 200, p)
    assert_share(ColorJitter(p, 0.4, 0.4, 0.4, 0.1).draw(DRAWS, seeded())[:, 0], p)


def test_jitter_factors_and_shift_are_uniform_in_their_ranges():
    values = ColorJitter(0.8, brightness=0.4, contrast=0.3, saturation=1.5, hue=0.1).draw(DRAWS, seeded())
    for column, (low, high) in enumerate([(0.6, 1.4), (0.7, 1.3), (0, 2.5), (-0.1, 0.1)], start=1):
        assert_uniform(values[:, column], low, high)


def test_all_24_orders_of_the_jitter_are_equally_likely():
    order = ColorJitter(0.8, 0.4, 0.4, 0.4, 0.1).draw(DRAWS, seeded())[:, 5:]
    assert torch.equal(order.sort(dim=1).values, torch.arange(4.0).expand(DRAWS, 4))
    _, counts = order.unique(dim=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-4


def test_area_shares_are_uniform_and_aspects_log_uniform_in_each_try():
    values = RandomResizedCrop(32).draw(DRAWS, seeded())
    for attempt in range(10):
        assert_uniform(values[:, attempt], 0.2, 1.0)
        assert_uniform(values[:, 10 + attempt].double().log(), math.log(3 / 4), math.log(4 / 3))


def test_a_box_lies_equally_often_at_each_place_where_it_fits():
    step = RandomResizedCrop(4, scale=(0.25, 0.25), ratio=(1.0, 1.0))  # 4 x 4 in 8 x 8
    top, left, *size = step.boxes(step.draw(DRAWS, seeded()), 8, 8).unbind(dim=1)
    assert all((length == 4).all() for length in size)
    assert_equally_often(5 * top + left, range(25))


def test_a_random_crop_starts_equally_often_at_each_pixel_where_it_fits():
    found = applied(RandomCrop(5), numbered_pixels(8, 6))
    assert_equally_often(found[:, 0, 0, 0], [6 * y + x for y in range(4) for x in range(2)])


@pytest.mark.parametrize("side", range(3, 12))
def test_the_smallest_and_largest_numbers_that_can_be_drawn_stay_inside_the_image(side):
    extremes = torch.tensor([[0.0, 0.0], [LARGEST, LARGEST]])
    crops = apply((RandomCrop(3),), numbered_pixels(side, side, 2), extremes)
    assert crops[:, 0, 0, 0].tolist() == [0, (side + 1) * (side - 3)]
    numbers = torch.cat([torch.full((2, 1), 2), extremes], dim=1)
    holes = apply((Cutout(1, 2),), torch.ones(2, 3, side, side), numbers)
    assert (holes[:, 0] == 0).sum(dim=(1, 2)).tolist() == [1, 4]


def test_strong_operations_are_drawn_equally_often_at_each_place_and_with_replacement():
    chosen = StrongOperations(4).draw(14 * 14 * 40, seeded())[:, :4]
    for place in range(4):
        assert_equally_often(chosen[:, place], range(14))
        for other in range(place):
            assert_equally_often(14 * chosen[:, place] + chosen[:, other], range(14 * 14))


def test_a_magnitude_is_uniform_in_the_range_of_its_own_operation():
    chosen, magnitude = StrongOperations(2).draw(7 * DRAWS, seeded()).split(2, dim=1)
    for number, (low, high, _) in enumerate(STRONG_OPERATIONS.values()):
        drawn = magnitude[chosen == number]
        if low == high:
            assert (drawn == low).all()
        else:
            assert_uniform(drawn, low, high)


def test_posterize_keeps_4_5_6_or_7_bits_equally_often():
    step, number = StrongOperations(1), list(STRONG_OPERATIONS).index("posterize")
    values = step.draw(14 * DRAWS, seeded())
    values = values[values[:, 0] == number]
    brightest = step.apply(torch.full((len(values), 3, 2, 2), 255, dtype=torch.uint8), values)[:, 0, 0, 0]
    assert_equally_often(brightest, [0b11110000, 0b11111000, 0b11111100, 0b11111110])


def test_the_parts_of_a_random_affine_are_uniform_in_their_ranges():
    step = RandomAffine(degrees=15, scale=(0.8, 1.3), aspect=(0.7, 1.2), shear=0.2, translate=0.1)
    angle, across, down, shear, shift_x, shift_y = step.draw(DRAWS, seeded()).double().unbind(dim=1)
    rounding = 1e-6  # of float32
    assert_uniform(angle, -15, 15)
    assert_uniform((across * down).sqrt(), 0.8 - rounding, 1.3 + rounding)
    assert_uniform(across / down, 0.7 - rounding, 1.2 + rounding)
    assert_uniform(shear, -0.2, 0.2)
    assert_uniform(shift_x, -0.1, 0.1)
    assert_uniform(shift_y, -0.1, 0.1)


def test_cutout_lengths_are_uniform_from_1_up_and_centres_cover_all_pixels_equally():
    found = applied(Cutout(1, 3), torch.ones(4 * DRAWS, 3, 5, 4))[:, 0] == 0
    cut = found.any(dim=(1, 2))
    assert_share(~cut, 1 / 3)  # length 1: no hole
    last = (found[cut] * torch.arange(20).view(5, 4)).amax(dim=(1, 2))  # lengths 2 and 3 end at the centre
    assert_equally_often(last, range(20))
    assert_equally_often(Cutout(1, 16).draw(DRAWS, seeded())[:, 0], range(1, 17))


@pytest.mark.parametrize(
    ("name", "together"),  # columns that may depend on each other
    [
        ("simclr", [[28, 29, 30, 31]]),  # the order of the jitter
        ("ours", [[3, 7], [4, 8], [5, 9], [6, 10]]),  # an operation and its magnitude
        ("affine", [[1, 2], [7, 8, 9, 10]]),  # zoom across and down; the order of the jitter
    ],
)
def test_numbers_depend_neither_on_each_other_nor_on_those_of_the_image_before(name, together):
    values = draw(transforms()[name], DRAWS, seeded()).numpy()
    values = values[:, values.min(axis=0) < values.max(axis=0)]
    columns = values.shape[1]
    correlation = np.corrcoef(values[1:], values[:-1], rowvar=False)  # (2 columns, 2 columns)
    for group in [*together, *([column] for column in range(columns))]:
        correlation[np.ix_(group, group)] = 0
    assert np.abs(correlation[:columns]).max() < 5 / math.sqrt(DRAWS)


# -- draw and apply


def test_the_same_seed_draws_the_same_table_and_another_seed_another(transform):
    tables = [draw(transform, 8, seeded(seed)) for seed in (3, 3, 4)]
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_apply_gives_float_views_leaves_its_inputs_alone_and_repeats_itself(transform, pictures):
    images, table = pictures(32, 32), draw(transform, 37, seeded())
    before, values = images.clone(), table.clone()
    found = apply(transform, images, table)
    assert found.dtype == torch.float32 and found.shape[:2] == (37, 3)
    assert torch.equal(images, before) and torch.equal(table, values)
    assert torch.equal(apply(transform, images, table), found)


@pytest.mark.parametrize("rows", [slice(5, 12), slice(30, None, 2), [9, 9, 0], [17]], ids=str)
def test_a_view_depends_on_its_image_and_row_alone(transform, rows, pictures):
    images, table = pictures(32, 32), draw(transform, 37, seeded())
    assert torch.equal(apply(transform, images[rows], table[rows]), apply(transform, images, table)[rows])


@pytest.mark.parametrize("rows", [slice(0, 1), slice(3, 20), slice(0, None, 3), [36, 2]], ids=str)
def test_a_crop_depends_on_its_own_row_alone_whether_or_not_others_in_the_batch_shrink(rows, pictures):
    images, crop = pictures(24, 40), (RandomResizedCrop(20, (0.05, 1.0)),)
    table = draw(crop, 37, seeded())
    shrinks = (crop[0].boxes(table, 24, 40)[:, 2:] > 20).any(dim=1)
    assert shrinks.any() and not shrinks.all()
    whole = apply(crop, images, table)
    assert torch.equal(apply(crop, images[rows], table[rows]), whole[rows])
    for chosen in (shrinks, ~shrinks):
        assert torch.equal(apply(crop, images[chosen], table[chosen]), whole[chosen])


def test_equal_images_in_a_batch_come_out_different(transform, pictures):
    images = pictures(32, 32)[:1].expand(16, -1, -1, -1)
    views = apply(transform, images, draw(transform, 16, seeded()))
    assert len(views.flatten(1).unique(dim=0)) >= 15  # only `ours` may do nothing twice


def test_a_table_for_another_number_of_images_is_an_error(pictures):
    with pytest.raises(ValueError, match=r"37 .* 36"):
        apply((HorizontalFlip(),), pictures(32, 32), draw((HorizontalFlip(),), 36, seeded()))


@pytest.mark.parametrize("step", [RandomCrop(25), CenterCrop(25)], ids=str)
def test_a_crop_larger_than_the_images_is_a_user_error_naming_both(step, pictures):
    with pytest.raises(UserError, match=r"crop_size 25 .*24 x 40"):
        apply((step,), pictures(24, 40), draw((step,), 37, seeded()))


# -- whole transforms


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("standard", (RandomResizedCrop(20), HorizontalFlip(0.5), Normalize(MEAN, STD))),
        (
            "simclr",
            (
                RandomResizedCrop(32, [0.2, 1.0]),
                HorizontalFlip(0.5),
                ColorJitter(0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
                Greyscale(0.2),
                Normalize(MEAN, STD),
            ),
        ),
        (
            "ours",
            (HorizontalFlip(), RandomCrop(32), StrongOperations(4), Normalize(MEAN, STD), Cutout(1, 16)),
        ),
        (
            "affine",
            (RandomAffine(**AFFINE), ColorJitter(1.0, 0.4), Normalize(MEAN, STD), Cutout(1, 5)),
        ),
    ],
)
def test_a_transform_has_these_steps_in_this_order(name, steps):
    assert transforms()[name] == steps


def test_affine_jitters_and_cuts_out_only_where_the_config_says_so():
    bare = of_kind("affine", random_affine=AFFINE, normalize={"mean": MEAN, "std": STD})
    assert bare == (RandomAffine(**AFFINE), Normalize(MEAN, STD))


@pytest.mark.parametrize(("name", "levels"), [("ours", 0), ("standard", 1), ("affine", 2)])
def test_a_transform_is_pillows_step_by_step_within_grey_levels(name, levels, pictures):
    for images in (pictures(32, 32), pictures(40, 50)):
        assert grey_levels_off(transforms()[name], images).max() < levels + 1e-3


def test_simclr_is_torchvisions_within_two_grey_levels_in_99_of_100_values(images):
    off = grey_levels_off(transforms()["simclr"], images)
    assert (off > 1 + 1e-3).float().mean() < 0.03  # a level of the crop, at times made more by the jitter
    assert (off > 2 + 1e-3).float().mean() < 0.01
    assert off.max() < 16


def test_the_val_transform_draws_nothing_and_is_torchvisions_centre_crop_normalised(images):
    transform = val_transform(EasyDict(crop_size=21, normalize={"mean": MEAN, "std": STD}))
    generator = seeded()
    table = draw(transform, len(images), generator)
    assert table.shape == (len(images), 0)
    assert torch.equal(generator.get_state(), seeded().get_state())
    right = [
        F.normalize(F.to_tensor(F.center_crop(F.to_pil_image(image), 21)), MEAN, STD) for image in images
    ]
    torch.testing.assert_close(apply(transform, images, table), torch.stack(right))
