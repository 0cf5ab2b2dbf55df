"""Every operation on a batch against Pillow on one picture at a time, each picture with its own parameter."""

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import adjust_hue, pil_to_tensor, to_pil_image

from data.augment import image_ops
from data.augment.strong import STRONG_OPERATIONS
from tests.data.augment.specification import PILLOW, seeded


def uniform(low, high, count, seed=0):
    return low + (high - low) * torch.rand(count, generator=seeded(seed))


def by_pillow(operation, images, *parameters):
    """operation(picture, its parameters) -> picture, image by image; uint8 (B, 3, H, W), parameters (B,)."""
    rows = zip(*(parameter.tolist() for parameter in parameters), strict=True)
    done = [operation(to_pil_image(image), *row) for image, row in zip(images, rows, strict=True)]
    return torch.stack([pil_to_tensor(picture) for picture in done])


def difference(found, expected):
    assert found.shape == expected.shape and found.dtype == expected.dtype == torch.uint8
    return found.int() - expected.int()


# -- to the bit

HIGHEST = {"color": 101, "contrast": 101, "brightness": 101, "sharpness": 2, "solarize": 256, "posterize": 8}


@pytest.mark.parametrize("name", HIGHEST)
@pytest.mark.parametrize("share", [None, 0, 0.01, 1], ids=str)
def test_an_operation_with_a_parameter_is_pillows_to_the_bit_far_beyond_the_strong_set(name, share, images):
    low, high = int(name == "posterize"), HIGHEST[name]
    parameter = uniform(low, high, len(images))
    parameter = parameter if share is None else torch.full((len(images),), low + share * (high - low))
    before, operation = images.clone(), STRONG_OPERATIONS[name][2]
    assert torch.equal(operation(images, parameter), by_pillow(PILLOW[name], images, parameter))
    assert torch.equal(images, before)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (5, 1), (2, 7), (3, 3)])
def test_sharpness_is_pillows_where_there_is_next_to_no_inside(height, width, images):
    narrow, factor = images[:, :, :height, :width], uniform(0, 2, len(images))
    expected = by_pillow(PILLOW["sharpness"], narrow, factor)
    assert torch.equal(image_ops.sharpness(narrow, factor), expected)


# -- within a grey level


def random_boxes(count, height, width):
    """(count, 4) top, left, height, width, of one pixel up to everything."""
    box_height, box_width = (uniform(1, length + 1, count, length).floor() for length in (height, width))
    top = ((height - box_height + 1) * uniform(0, 1, count, 1)).floor()
    left = ((width - box_width + 1) * uniform(0, 1, count, 2)).floor()
    return torch.stack([top, left, box_height, box_width], dim=1)


@pytest.mark.parametrize("size", [7, 20, 32, 48])
def test_a_resized_crop_is_pillows_within_one_grey_level_and_neither_darker_nor_brighter(size, images):
    def crop_and_resize(picture, top, left, height, width):
        return picture.crop((left, top, left + width, top + height)).resize((size, size), Image.BILINEAR)

    boxes, before = random_boxes(len(images), *images.shape[2:]), images.clone()
    expected = by_pillow(crop_and_resize, images, *boxes.T)
    off = difference(image_ops.resized_crop(images, boxes, size), expected)
    assert off.abs().max() <= 1
    assert off.float().mean().abs() < 0.05
    assert torch.equal(images, before)


def test_a_box_of_the_size_asked_for_is_cut_out_unchanged(images):
    boxes = torch.tensor([[3.0, 2.0, 20.0, 20.0]]).expand(len(images), -1)
    assert torch.equal(image_ops.resized_crop(images, boxes, 20), images[:, :, 3:23, 2:22])


# -- hue: float32 where Pillow has double, so at times one of its 256 steps of hue off, which is 6 grey levels


@pytest.mark.parametrize("shift", [-0.5, -0.1, -0.001, 0.0, 0.03, 0.37, 0.5])
def test_a_turn_of_the_hue_is_pillows_but_for_a_few_steps_of_hue_and_leaves_grey_alone(shift):
    level = torch.arange(0, 256, 15, dtype=torch.uint8)
    cube = torch.cartesian_prod(level, level, level).T.reshape(1, 3, 18, -1)  # a regular grid has many ties
    shift = torch.tensor([shift])
    off = difference(image_ops.hue(cube, shift), by_pillow(adjust_hue, cube, shift))
    assert off.abs().max() <= 6
    assert (off != 0).float().mean() < 0.01
    grey = (cube == cube[:, :1]).all(dim=1, keepdim=True)
    assert grey.sum() == len(level) and not (off * grey).any()
