"""The random numbers of each step: their distributions, and the boxes of the random resized crop."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from data.augment import apply, draw
from data.augment.crops import HorizontalFlip, RandomCrop, RandomResizedCrop
from data.augment.steps import ColorJitter, Cutout, Greyscale, RandomAffine
from data.augment.strong import STRONG_OPERATIONS, StrongOperations
from tests.data.augment.specification import box_of, seeded, transforms

DRAWS = 6000
LARGEST = 1 - 2**-24  # that torch.rand draws in float32


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


@pytest.mark.parametrize(  # the ratio is from 3 : 4 to 4 : 3
    ("height", "width", "box"),
    [(32, 32, [0, 0, 32, 32]), (31, 80, [0, 19, 31, 41]), (91, 30, [25, 0, 40, 30])],
)
def test_where_no_try_fits_the_box_is_the_centre_as_large_as_the_ratio_allows(height, width, box):
    step = RandomResizedCrop(16, scale=(3.0, 4.0))  # three times the image
    assert step.boxes(step.draw(5, seeded()), height, width).tolist() == [box] * 5


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


@pytest.mark.parametrize("step", [HorizontalFlip(), Greyscale(0.2), ColorJitter(0.8, 0.4)], ids=str)
def test_a_step_happens_with_its_probability(step):
    assert_share(step.draw(DRAWS, seeded())[:, 0], step.p)
    colours = torch.arange(12, dtype=torch.uint8).view(1, 3, 2, 2).expand(DRAWS, -1, -1, -1)
    assert_share((applied(step, 20 * colours) != 20 * colours).flatten(1).any(dim=1), step.p)


AFFINE = RandomAffine(degrees=15, scale=(0.8, 1.3), aspect=(1.0, 1.0), shear=0.2, translate=0.1)


@pytest.mark.parametrize(
    ("step", "ranges"),  # of the first columns
    [
        (ColorJitter(0.8, 0.4, 0.3, 1.5, 0.1), [None, (0.6, 1.4), (0.7, 1.3), (0, 2.5), (-0.1, 0.1)]),
        (RandomResizedCrop(32), [(0.2, 1.0)] * 10),
        (AFFINE, [(-15, 15), (0.8, 1.3), (0.8, 1.3), (-0.2, 0.2), (-0.1, 0.1), (-0.1, 0.1)]),
    ],
    ids=["amounts of the jitter", "areas of a crop", "parts of an affine"],
)
def test_numbers_are_uniform_in_their_ranges(step, ranges):
    for values, bounds in zip(step.draw(DRAWS, seeded()).T, ranges, strict=False):
        if bounds:
            assert_uniform(values, *bounds)


def test_aspects_are_log_uniform_in_each_try_and_uniform_in_an_affine():
    for aspect in RandomResizedCrop(32).draw(DRAWS, seeded())[:, 10:20].T:
        assert_uniform(aspect.double().log(), math.log(3 / 4), math.log(4 / 3))
    across, down = replace(AFFINE, aspect=(0.7, 1.2)).draw(DRAWS, seeded()).double()[:, 1:3].T
    assert_uniform(across / down, 0.7 - 1e-6, 1.2 + 1e-6)  # rounded to float32


def test_all_24_orders_of_the_jitter_are_equally_likely():
    order = ColorJitter(0.8, 0.4, 0.4, 0.4, 0.1).draw(DRAWS, seeded())[:, 5:]
    assert torch.equal(order.sort(dim=1).values, torch.arange(4.0).expand(DRAWS, 4))
    _, counts = order.unique(dim=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-4


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
