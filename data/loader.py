"""Hands out batches of augmented views on the device, everything random seeded by (seed, epoch, step)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.augment import apply, draw
from utils.errors import UserError


@dataclass(frozen=True)
class Batch:
    """index: int64 (B,) places in the data set. views: float (B, 3, h, w) each, on the device. target: int64 (B,) or
    None, for evaluation alone."""

    index: Tensor
    views: list[Tensor]
    target: Tensor | None


def seeded_generator(*key: int) -> torch.Generator:
    """A CPU generator whose stream depends on all numbers of the key and on nothing else."""
    low, high = np.random.SeedSequence(key).generate_state(2).tolist()
    return torch.Generator().manual_seed((high << 32) | low)


class ResidentLoader:
    """Batches of a data set whose images lie in one uint8 tensor. Call `set_epoch` before each pass of training."""

    def __init__(self, dataset, views: list, batch_size: int, device, train: bool, neighbors: Tensor | None, seed: int):
        self.dataset, self.views, self.batch_size, self.device = dataset, views, batch_size, torch.device(device)
        self.train, self.neighbors, self.seed, self.epoch, self.first_step = train, neighbors, seed, 0, 0
        self.images = dataset.images_on(self.device)
        for strategy in views:  # what does not fit the images is said before the first epoch
            apply(self.images[:1], draw(strategy, 1, torch.Generator()))

    def __len__(self) -> int:
        """Batches in a pass: training drops the last incomplete one, evaluation keeps it."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.train)

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Choose the next pass; a pass that was stopped goes on at `first_step`, its batches those of a whole one."""
        self.epoch, self.first_step = epoch, first_step

    def __iter__(self) -> Iterator[Batch]:
        order = torch.arange(len(self.dataset))
        if self.train:
            order = torch.randperm(len(order), generator=seeded_generator(self.seed, self.epoch, 0))
        for step in range(self.first_step, len(self)):
            index = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield self._batch(index, seeded_generator(self.seed, self.epoch, step + 1))

    def _batch(self, index: Tensor, generator: torch.Generator) -> Batch:
        sources = [index] * len(self.views)
        if self.neighbors is not None:  # the second view is a neighbor's
            column = torch.randint(self.neighbors.shape[1], (len(index),), generator=generator)
            sources[1] = self.neighbors[index, column]
        tables = [draw(strategy, len(index), generator) for strategy in self.views]
        views = [apply(self._gather(source), table) for source, table in zip(sources, tables, strict=True)]
        views = [view.contiguous(memory_format=torch.channels_last) for view in views]  # convolutions' fast form
        return Batch(index, views, None if self.dataset.targets is None else self.dataset.targets[index])

    def _gather(self, index: Tensor) -> Tensor:
        chosen = self.images[index.to(self.images.device, non_blocking=True)]  # uint8 (B, 3, H, W)
        return chosen.to(self.device, non_blocking=True)


def build_loader(
    dataset, views: list, batch_size: int, device="cpu", *, train=False, neighbors: Tensor | None = None, seed: int = 0
) -> ResidentLoader:
    """Iterate over `dataset` in batches with one view of each image for each strategy in `views`.

    train: shuffled, the last incomplete batch dropped; otherwise every image once, in order. neighbors: int64 (N, T+1),
    column 0 the image itself; then the second view shows, in place of the image, one of its row drawn uniformly.
    Raises UserError when training would have no batch at all."""
    if train and len(dataset) < batch_size:
        raise UserError(
            f"batch_size {batch_size} is larger than the training set ({len(dataset)} images), which leaves no batch: "
            f"set batch_size to at most {len(dataset)}"
        )
    if neighbors is not None and len(neighbors) != len(dataset):
        raise ValueError(f"{len(neighbors)} rows of neighbors for {len(dataset)} images")
    return ResidentLoader(dataset, views, batch_size, device, train, neighbors, seed)
