"""Which images make up each batch of a pass, everything random seeded by (seed, epoch, step)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """index: int64 (B,) places in the data set. views: float (B, 3, h, w) each, on the device. target: int64 (B,) or
    None, for evaluation alone."""

    index: Tensor
    views: list[Tensor]
    target: Tensor | None


@dataclass(frozen=True)
class Step:
    """What a batch is to be. index: int64 (B,). sources: for each view the images that it shows, int64 (B,).
    generator: for what else is random in it."""

    index: Tensor
    sources: list[Tensor]
    generator: torch.Generator


def seeded_generator(*key: int) -> torch.Generator:
    """A CPU generator whose stream depends on the numbers of the key and on nothing else: keys that differ have streams
    of their own, unless all that one has more are zeros at its end."""
    low, high = np.random.SeedSequence(key).generate_state(2).tolist()
    return torch.Generator().manual_seed((high << 32) | low)


class Loader:
    """Who is in each batch, whatever a batch is made of. Call `set_epoch` before each pass of training."""

    def __init__(
        self,
        dataset,
        views: list,
        batch_size: int,
        device,
        train: bool = False,
        neighbors: Tensor | None = None,
        seed: int = 0,
    ):
        self.dataset, self.views, self.batch_size, self.device = (
            dataset,
            views,
            batch_size,
            torch.device(device),
        )
        self.train, self.neighbors, self.seed, self.epoch, self.first_step = train, neighbors, seed, 0, 0

    def __len__(self) -> int:
        """Batches in a pass: training drops the last incomplete one, evaluation keeps it."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.train)

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Choose the next pass; a pass that was stopped goes on at `first_step`, its batches those of a whole one."""
        self.epoch, self.first_step = epoch, first_step

    def steps(self, first: int) -> Iterator[Step]:
        """The steps of this pass from number `first` on."""
        order = torch.arange(len(self.dataset))
        if self.train:
            order = torch.randperm(len(order), generator=seeded_generator(self.seed, self.epoch, 0))
        for number in range(first, len(self)):
            index = order[number * self.batch_size : (number + 1) * self.batch_size]
            generator = seeded_generator(self.seed, self.epoch, number + 1)
            sources = [index] * len(self.views)
            if self.neighbors is not None:  # the second view is a neighbor's
                column = torch.randint(self.neighbors.shape[1], (len(index),), generator=generator)
                sources[1] = self.neighbors[index, column]
            yield Step(index, sources, generator)

    def batch(self, step: Step, views: list[Tensor]) -> Batch:
        targets = self.dataset.targets
        if views[0].ndim == 4:  # images, in the form in which convolutions are fast
            views = [view.contiguous(memory_format=torch.channels_last) for view in views]
        return Batch(step.index, views, None if targets is None else targets[step.index])
