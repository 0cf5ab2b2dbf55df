"""Transforms: tuples of steps that augment a batch from a table of random numbers (B, n), one row per image.

A view depends on its image and its row alone, not on the other images of the batch."""

import torch
from torch import Tensor

from data.augment.crops import CenterCrop, HorizontalFlip, RandomCrop, RandomResizedCrop, Resize
from data.augment.steps import ColorJitter, Cutout, Greyscale, Normalize, RandomAffine
from data.augment.strong import StrongOperations


def draw(transform: tuple, batch: int, generator: torch.Generator) -> Tensor:
    """The table for `batch` images: float32 (batch, columns of all steps), on the CPU."""
    columns = [step.draw(batch, generator) for step in transform if step.columns]
    return torch.cat([torch.empty(batch, 0), *columns], dim=1)


def apply(transform: tuple, images: Tensor, table: Tensor) -> Tensor:
    """Augment uint8 (B, 3, H, W) images on their device by the rows of the table: float (B, 3, h, w)."""
    for step, values in zip(transform, table.split([step.columns for step in transform], dim=1), strict=True):
        images = step.apply(images, values)
    return images


def _standard(kwargs) -> tuple:
    return RandomResizedCrop(**kwargs.random_resized_crop), HorizontalFlip(), Normalize(**kwargs.normalize)


def _simclr(kwargs) -> tuple:
    crop, flip, normalize = _standard(kwargs)
    jitter = ColorJitter(kwargs.color_jitter_random_apply.p, **kwargs.color_jitter)
    return crop, flip, jitter, Greyscale(kwargs.random_grayscale.p), normalize


def _ours(kwargs) -> tuple:
    crop, strong = RandomCrop(kwargs.crop_size), StrongOperations(kwargs.num_strong_augs)
    return HorizontalFlip(), crop, strong, Normalize(**kwargs.normalize), Cutout(**kwargs.cutout_kwargs)


def _affine(kwargs) -> tuple:
    jitter = [ColorJitter(1.0, **kwargs.color_jitter)] if "color_jitter" in kwargs else []
    cutout = [Cutout(**kwargs.cutout_kwargs)] if "cutout_kwargs" in kwargs else []
    return RandomAffine(**kwargs.random_affine), *jitter, Normalize(**kwargs.normalize), *cutout


TRANSFORMS = {"standard": _standard, "simclr": _simclr, "ours": _ours, "affine": _affine}


def train_transform(cfg) -> tuple:
    """The random transform of the keys `augmentation_strategy` and `augmentation_kwargs`; the plain view if
    the strategy is `plain`."""
    if cfg.augmentation_strategy == "plain":
        return val_transform(cfg.transformation_kwargs)
    return TRANSFORMS[cfg.augmentation_strategy](cfg.augmentation_kwargs)


def val_transform(kwargs) -> tuple:
    """The plain view of the key `transformation_kwargs`: resize if asked, centre crop and normalise."""
    interpolation = kwargs.get("interpolation", "bilinear")
    resize = [Resize(kwargs.resize, interpolation)] if "resize" in kwargs else []
    return *resize, CenterCrop(kwargs.crop_size), Normalize(**kwargs.normalize)
