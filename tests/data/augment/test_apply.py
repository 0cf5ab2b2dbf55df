"""Transforms applied to batches against Pillow and torchvision, picture by picture (`specification.py`)."""

import pytest
import torch
from easydict import EasyDict
from torchvision.transforms import functional as F

from data.augment import apply, draw, val_transform
from data.augment.crops import CenterCrop, HorizontalFlip, RandomCrop, RandomResizedCrop, Resize
from data.augment.steps import ColorJitter, Cutout, Greyscale, Normalize, RandomAffine
from data.augment.strong import STRONG_OPERATIONS, StrongOperations
from tests.data.augment import specification as spec
from utils.errors import UserError

NORMALIZE, FLIP = Normalize(**spec.NORMALIZE), HorizontalFlip(0.5)
JITTER = ColorJitter(0.8, 0.4, 0.4, 0.4, 0.1)


@pytest.fixture(params=["standard", "simclr", "ours", "affine"])
def transform(request):
    return spec.transforms()[request.param]


# -- each step against the specification


@pytest.mark.parametrize(
    "step",
    [
        *(HorizontalFlip(), Greyscale(0.5), StrongOperations(4)),
        *(ColorJitter(0.8, brightness=0.4, contrast=0.4, saturation=0.4), ColorJitter(1.0, brightness=1.5)),
        *(crop(size) for crop in (RandomCrop, CenterCrop) for size in (24, 17)),
    ],
    ids=str,
)
def test_a_step_is_pillows_to_the_bit_each_image_with_its_own_numbers(step, images):
    assert spec.grey_levels_off((step,), images).max() == 0


@pytest.mark.parametrize("name", spec.PILLOW)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_each_of_the_14_strong_operations_is_pillows_to_the_bit(name, share, images):
    low, high, _ = STRONG_OPERATIONS[name]
    row = torch.tensor([list(STRONG_OPERATIONS).index(name), low + (high - low) * share])
    assert spec.grey_levels_off((StrongOperations(1),), images, row.expand(len(images), -1)).max() == 0


def test_there_are_14_strong_operations_with_the_ranges_of_the_paper():
    assert {name: entry[:2] for name, entry in STRONG_OPERATIONS.items()} == {
        **dict.fromkeys(["identity", "autocontrast", "equalize"], (0, 0)),
        "solarize": (0, 256),
        "posterize": (4, 8),  # rounded down: 4 to 7 bits
        **dict.fromkeys(["color", "contrast", "brightness", "sharpness"], (0.05, 0.95)),
        **dict.fromkeys(["shear x", "shear y", "translate x", "translate y"], (-0.1, 0.1)),
        "rotate": (-30, 30),
    }


def test_a_random_affine_is_pillows_with_a_matrix_composed_from_its_parts_within_one_grey_level(images):
    off = spec.grey_levels_off((RandomAffine(**spec.AFFINE),), images)
    assert off.max() <= 1
    assert (off > 0).float().mean() < 0.04


def test_the_whole_colour_jitter_is_torchvisions_but_for_its_steps_of_hue(images):
    off = spec.grey_levels_off((JITTER,), images)
    assert off.max() <= 16  # a step of hue is 6 levels, which the other operations may make more
    assert (off > 0).float().mean() < 0.005


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [1, 17, 60, 100])
def test_a_resized_batch_is_pillows_within_one_grey_level_but_for_two_in_few_values(
    size, interpolation, images
):
    off = spec.grey_levels_off((Resize(size, interpolation),), images)
    assert off.max() <= 2
    assert (off > 1).float().mean() < 0.0002  # Pillow rounds a tie of its first pass either way


@pytest.mark.parametrize("size", [(24, 40), (40, 24)])
def test_images_whose_short_side_is_right_are_not_resized(size, pictures):
    images = pictures(*size)
    assert apply((Resize(24, "bicubic"),), images, torch.empty(37, 0)) is images


@pytest.mark.parametrize("cutout", [Cutout(1, 16), Cutout(3, 9), Cutout(1, 100), Cutout(0, 9)], ids=str)
def test_cutout_is_a_loop_over_the_pixels_of_each_hole(cutout):
    images = torch.ones(60, 3, 20, 28)
    table = draw((cutout,), 60, spec.seeded())
    assert torch.equal(apply((cutout,), images, table), spec.expected((cutout,), images, table))


def test_cutout_with_length_5_leaves_4_rows_and_columns_at_0():
    found = apply((Cutout(1, 5),), torch.ones(2, 3, 9, 9), torch.tensor([[5, 0.5, 0.5], [5, 0, 0.95]]))
    holes = torch.ones(2, 3, 9, 9)
    holes[0, :, 2:6, 2:6] = 0  # centre 4: from 4 - 2 to 4 + 2 - 1
    holes[1, :, :2, 6:] = 0  # centre (0, 8), clipped
    assert torch.equal(found, holes)


# -- draw and apply


def test_the_same_seed_draws_the_same_table_and_another_seed_another(transform):
    tables = [draw(transform, 8, spec.seeded(seed)) for seed in (3, 3, 4)]
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_apply_gives_float_views_leaves_its_inputs_alone_and_repeats_itself(transform, pictures):
    images, table = pictures(32, 32), draw(transform, 37, spec.seeded())
    before, values = images.clone(), table.clone()
    found = apply(transform, images, table)
    assert found.dtype == torch.float32 and found.shape[:2] == (37, 3)
    assert torch.equal(images, before) and torch.equal(table, values)
    assert torch.equal(apply(transform, images, table), found)


@pytest.mark.parametrize("rows", [slice(5, 12), slice(30, None, 2), [9, 9, 0], [17]], ids=str)
def test_a_view_depends_on_its_image_and_row_alone(transform, rows, pictures):
    images, table = pictures(32, 32), draw(transform, 37, spec.seeded())
    assert torch.equal(apply(transform, images[rows], table[rows]), apply(transform, images, table)[rows])


def test_equal_images_in_a_batch_come_out_different(transform, pictures):
    images = pictures(32, 32)[:1].expand(16, -1, -1, -1)
    views = apply(transform, images, draw(transform, 16, spec.seeded()))
    assert len(views.flatten(1).unique(dim=0)) >= 15  # only `ours` may do nothing twice


@pytest.mark.parametrize("step", [RandomCrop(25), CenterCrop(25)], ids=str)
def test_a_crop_larger_than_the_images_is_a_user_error_naming_both(step, pictures):
    with pytest.raises(UserError, match=r"crop_size 25 .*24 x 40"):
        apply((step,), pictures(24, 40), draw((step,), 37, spec.seeded()))


# -- whole transforms


STEPS = {
    "standard": (RandomResizedCrop(20), FLIP, NORMALIZE),
    "simclr": (RandomResizedCrop(32, [0.2, 1.0]), FLIP, JITTER, Greyscale(0.2), NORMALIZE),
    "ours": (FLIP, RandomCrop(32), StrongOperations(4), NORMALIZE, Cutout(1, 16)),
    "affine": (RandomAffine(**spec.AFFINE), ColorJitter(1.0, brightness=0.4), NORMALIZE, Cutout(1, 5)),
}


def test_a_transform_has_these_steps_in_this_order_and_affine_only_those_that_the_config_names():
    assert spec.transforms() == STEPS
    bare = spec.of_kind("affine", random_affine=spec.AFFINE, normalize=spec.NORMALIZE)
    assert bare == (RandomAffine(**spec.AFFINE), NORMALIZE)


@pytest.mark.parametrize(("name", "levels"), [("ours", 0), ("standard", 1), ("affine", 2)])
def test_a_transform_is_pillows_step_by_step_within_grey_levels(name, levels, pictures):
    for images in (pictures(32, 32), pictures(40, 50)):
        assert spec.grey_levels_off(spec.transforms()[name], images).max() < levels + 1e-3


def test_simclr_is_torchvisions_within_two_grey_levels_in_99_of_100_values(images):
    off = spec.grey_levels_off(spec.transforms()["simclr"], images)
    assert (off > 1 + 1e-3).float().mean() < 0.03  # a level of the crop, at times made more by the jitter
    assert (off > 2 + 1e-3).float().mean() < 0.01
    assert off.max() < 16


def test_the_val_transform_draws_nothing_and_is_torchvisions_centre_crop_normalised(images):
    transform = val_transform(EasyDict(crop_size=21, normalize=spec.NORMALIZE))
    table = draw(transform, len(images), generator=None)
    assert table.shape == (len(images), 0)
    crops = [F.to_tensor(F.center_crop(F.to_pil_image(image), 21)) for image in images]
    expected = F.normalize(torch.stack(crops), **spec.NORMALIZE)
    torch.testing.assert_close(apply(transform, images, table), expected)


def test_the_val_transform_resizes_first_if_asked_and_is_named_as_before_if_not():
    def steps(**keys):
        normalize = {"mean": [0, 0, 0], "std": [1, 1, 1]}
        return repr(val_transform(EasyDict(crop_size=21, normalize=normalize, **keys)))

    before = "(CenterCrop(size=21), Normalize(mean=[0, 0, 0], std=[1, 1, 1]))"  # hashed for cached features
    assert steps() == steps(interpolation="bicubic") == before
    assert steps(resize=24) == f"(Resize(size=24, interpolation='bilinear'), {before[1:]}"
    assert steps(resize=24, interpolation="bicubic") == steps(resize=24).replace("bilinear", "bicubic")


def test_a_crop_larger_than_the_resized_images_is_a_user_error_naming_both(pictures):
    transform = val_transform(EasyDict(resize=24, crop_size=25, normalize=spec.NORMALIZE))
    with pytest.raises(UserError, match=r"crop_size 25 .*24 x 48"):
        apply(transform, pictures(20, 40), draw(transform, 37, generator=None))
