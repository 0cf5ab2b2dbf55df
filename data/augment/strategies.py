"""Augmentation of whole batches, in two pure steps: draw a table of random numbers, then apply it.

A strategy is a tuple of steps (`augment_steps.py`, `augment_strong.py`). `draw` asks each step for its columns, one row
an image, on the CPU; `apply` has each step read its columns back, on any device. `STRATEGIES` names the strategies of
the configs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.augment.crops import CenterCrop, HorizontalFlip, RandomCrop, RandomResizedCrop
from data.augment.steps import ColorJitter, Cutout, Greyscale, Normalize, RandomAffine
from data.augment.strong import StrongOperations


@dataclass(frozen=True)
class Table:
    """What `apply` will do to each image. values: (B, n) float32 on the CPU; a slice of rows is a table too."""

    strategy: tuple
    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows) -> "Table":
        return Table(self.strategy, self.values[rows])


def draw(strategy: tuple, batch: int, generator: torch.Generator) -> Table:
    """Draw the random numbers for `batch` images, each image its own."""
    columns = [step.draw(batch, generator) for step in strategy if step.columns]
    return Table(strategy, torch.cat(columns, dim=1) if columns else torch.empty(batch, 0))


def join(tables: Sequence[Table]) -> Table:
    """One table for the images of several, one after the other; their strategy is one."""
    return Table(tables[0].strategy, torch.cat([table.values for table in tables]))


def apply(images: Tensor, table: Table) -> Tensor:
    """Augment uint8 (B, 3, H, W) images on their device, row i of the table for image i: float (B, 3, h, w)."""
    if len(images) != len(table):
        raise ValueError(f"{len(images)} images but {len(table)} rows in the table")
    parts = table.values.split([step.columns for step in table.strategy], dim=1)
    for step, values in zip(table.strategy, parts, strict=True):
        images = step.apply(images, values)
    return images


def _cutout(kwargs) -> Cutout:
    return Cutout(kwargs.n_holes, kwargs.length)  # the published key `random` changes nothing


def _standard(kwargs) -> tuple:
    return RandomResizedCrop(**kwargs.random_resized_crop), HorizontalFlip(), Normalize(**kwargs.normalize)


def _simclr(kwargs) -> tuple:
    jitter = ColorJitter(p=kwargs.color_jitter_random_apply.p, **kwargs.color_jitter)
    return (
        RandomResizedCrop(**kwargs.random_resized_crop),
        HorizontalFlip(),
        jitter,
        Greyscale(kwargs.random_grayscale.p),
        Normalize(**kwargs.normalize),
    )


def _ours(kwargs) -> tuple:
    return (
        HorizontalFlip(),
        RandomCrop(kwargs.crop_size),
        StrongOperations(kwargs.num_strong_augs),
        Normalize(**kwargs.normalize),
        _cutout(kwargs.cutout_kwargs),
    )


def _affine_strategy(kwargs) -> tuple:
    jitter = [ColorJitter(p=1.0, **kwargs.color_jitter)] if "color_jitter" in kwargs else []
    cutout = [_cutout(kwargs.cutout_kwargs)] if "cutout_kwargs" in kwargs else []
    return RandomAffine(**kwargs.random_affine), *jitter, Normalize(**kwargs.normalize), *cutout


STRATEGIES = {"standard": _standard, "simclr": _simclr, "ours": _ours, "affine": _affine_strategy}


def train_transform(strategy: str, kwargs) -> tuple:
    """The random transform that the keys `augmentation_strategy` and `augmentation_kwargs` describe."""
    return STRATEGIES[strategy](kwargs)


def val_transform(kwargs) -> tuple:
    """Centre crop and normalise, nothing random: `transformation_kwargs`."""
    return CenterCrop(kwargs.crop_size), Normalize(**kwargs.normalize)
