"""What a transform does, one Pillow picture and one step at a time, with the numbers of its table row."""

import math
from functools import cache

import numpy as np
import torch
from easydict import EasyDict
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import functional as F

from data.augment import apply, draw, train_transform
from data.augment.crops import CenterCrop, HorizontalFlip, RandomCrop, RandomResizedCrop, Resize
from data.augment.steps import ColorJitter, Cutout, Greyscale, Normalize, RandomAffine
from data.augment.strong import STRONG_OPERATIONS, StrongOperations
from utils.config import load_config

NORMALIZE = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}  # CIFAR-10
AFFINE = {"degrees": 15.0, "scale": [0.8, 1.2], "aspect": [0.8, 1.2], "shear": 0.2, "translate": 0.15}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def of_kind(name, **kwargs):
    return train_transform(EasyDict(augmentation_strategy=name, augmentation_kwargs=kwargs))


def published(experiment, *overrides):
    cfg = load_config(None, f"configs/{experiment}.yml", overrides)
    return train_transform(cfg)


@cache
def transforms():
    """One of each kind: the published ones, and two of our own."""
    cutout = {"n_holes": 1, "length": 5, "random": True}
    rest = {"color_jitter": {"brightness": 0.4}, "normalize": NORMALIZE, "cutout_kwargs": cutout}
    return {
        "standard": of_kind("standard", random_resized_crop={"size": 20}, normalize=NORMALIZE),
        "simclr": published("pretext/simclr_cifar10"),
        "ours": published("scan/scan_cifar10"),
        "affine": of_kind("affine", random_affine=AFFINE, **rest),
    }


def box_of(step, row, height, width):
    """Ten tries of area share and aspect, the first that fits; else the largest centre the ratio allows."""
    areas, aspects, (down, across) = row[:10], row[10:20], row[20:]
    for area, aspect in zip(areas, aspects, strict=True):
        box_width = round(math.sqrt(height * width * area * aspect))
        box_height = round(math.sqrt(height * width * area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = int(down * (height - box_height + 1)), int(across * (width - box_width + 1))
            return top, left, box_height, box_width
    box_height = min(height, round(width / step.ratio[0]))
    box_width = min(width, round(height * step.ratio[1]))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def resize_crop(step, picture, row):
    top, left, height, width = box_of(step, row, picture.height, picture.width)
    return F.resized_crop(picture, top, left, height, width, [step.size, step.size])


def jitter(step, picture, row):
    chosen, amounts, order = row[0], row[1:5], row[5:]
    adjust = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]
    for number in map(int, order) if chosen else ():
        if [step.brightness, step.contrast, step.saturation, step.hue][number]:
            picture = adjust[number](picture, amounts[number])
    return picture


def crop_anywhere(step, picture, row):
    top, left = int(row[0] * (picture.height - step.size + 1)), int(row[1] * (picture.width - step.size + 1))
    return picture.crop((left, top, left + step.size, top + step.size))


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
    shift = [[1, 0, x + shift_x * picture.width], [0, 1, y + shift_y * picture.height], [0, 0, 1]]
    turn, slant = [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], [[1, shear, 0], [0, 1, 0], [0, 0, 1]]
    to_centre = [[1, 0, -x], [0, 1, -y], [0, 0, 1]]
    parts = [shift, turn, slant, np.diag([across, down, 1]), to_centre]
    forward = np.linalg.multi_dot([np.array(part) for part in parts])
    return transformed(picture, *np.linalg.inv(forward)[:2].flatten(), resample=Image.BILINEAR)


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
    HorizontalFlip: lambda step, picture, row: ImageOps.mirror(picture) if row[0] else picture,
    ColorJitter: jitter,
    Greyscale: lambda step, picture, row: F.rgb_to_grayscale(picture, 3) if row[0] else picture,
    Resize: lambda step, picture, row: F.resize(picture, step.size, F.InterpolationMode(step.interpolation)),
    RandomCrop: crop_anywhere,
    CenterCrop: lambda step, picture, row: F.center_crop(picture, step.size),
    StrongOperations: strong,
    RandomAffine: affine_about_the_centre,
    Normalize: lambda step, picture, row: F.normalize(F.to_tensor(picture), step.mean, step.std),
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
