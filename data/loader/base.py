"""Which images make up each batch, and the seeds of everything random."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from torch import Tensor

from data.augment import apply, draw
from utils import distributed
from utils.errors import UserError


@dataclass(frozen=True)
class Batch:
    """index: int64 (B,), rows of the data set. views: float (B, 3, h, w) each, on the device.
    target: int64 (B,), for evaluation alone; None without labels."""

    index: Tensor
    views: list[Tensor]
    target: Tensor | None


@dataclass(frozen=True)
class Step:
    """A batch before its images are read. sources: for each view the images it shows, int64 (B,).
    tables: for each view the random numbers of its transform, (B, n)."""

    index: Tensor
    sources: list[Tensor]
    tables: list[Tensor]


def seeded_generator(*key: int) -> torch.Generator:
    """A CPU generator whose stream depends on the key alone.

    PyTorch's CPU generator takes seeds of 32 bits: two distinct keys share a stream with probability 2^-32.
    Zeros at the end of a key are ignored."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


@dataclass(eq=False, repr=False)
class Loader:
    """Iterates over a data set in batches, with one view per transform in `views`.

    train: shuffled anew in each epoch, the last incomplete batch dropped; `set_epoch` comes before each pass.
    Else every image once, in order. Of a training batch each process has its share of the rows; other batches
    are shared out whole, and who has none left repeats the last one.
    neighbors: int64 (N, T+1); if given, the second view shows a random image of the image's row.
    A batch depends on (seed, epoch, step) alone. A subclass says where the images come from.
    Raises UserError when training would have no batch, or a process no row of one."""

    dataset: object
    views: list[tuple]
    batch_size: int
    device: torch.device
    _: KW_ONLY
    train: bool = False
    neighbors: Tensor | None = None
    seed: int = 0
    draw = staticmethod(draw)  # a view's table, from (transform, batch, generator)

    def __post_init__(self):
        self.device = torch.device(self.device)
        self.set_epoch(0)
        if self.train and len(self) == 0:
            count = len(self.dataset)
            problem = f"batch_size {self.batch_size} is larger than the training set ({count} images)"
            raise UserError(f"{problem}: set it to at most {count}")
        processes = distributed.world_size()
        if self.train and not range(self.batch_size)[distributed.share_of(self.batch_size, processes - 1)]:
            problem = f"batch_size {self.batch_size} leaves nothing for the last of {processes} processes"
            raise UserError(f"{problem}: raise it, or start fewer processes")

    def __iter__(self) -> Iterator[Batch]:
        """A pass. Raises ValueError for a second pass in one epoch of training: it would repeat the first."""
        if self.train and self.is_begun:
            raise ValueError(f"epoch {self.epoch} has been passed through: call set_epoch before each pass")
        self.is_begun = True
        return self.batches()

    def __len__(self) -> int:
        """Batches in a pass."""
        return (len(self.dataset) + (0 if self.train else self.batch_size - 1)) // self.batch_size

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Choose the epoch of the next pass, and its first step if an interrupted pass is resumed."""
        self.epoch, self.first_step, self.is_begun = epoch, first_step, False

    def step_numbers(self) -> list[int]:
        """The numbers of this process's steps in this pass, from the first one chosen on."""
        if self.train:
            return list(range(self.first_step, len(self)))
        processes, last = distributed.world_size(), len(self) - 1
        rounds = range(self.first_step, len(self), processes)
        return [min(first + distributed.rank(), last) for first in rounds]

    def steps(self) -> Iterator[Step]:
        """The steps of this pass, this process's rows of each."""
        order = torch.arange(len(self.dataset))
        if self.train:
            order = torch.randperm(len(order), generator=seeded_generator(self.seed, self.epoch, 0))
        batches = order.split(self.batch_size)
        rows = distributed.share_of(self.batch_size) if self.train else slice(None)
        for number in self.step_numbers():
            index, generator = batches[number], seeded_generator(self.seed, self.epoch, number + 1)
            sources = [index] * len(self.views)
            if self.neighbors is not None:
                column = torch.randint(self.neighbors.shape[1], (len(index),), generator=generator)
                sources[1] = self.neighbors[index, column]
            tables = [self.draw(transform, len(index), generator) for transform in self.views]
            yield Step(index[rows], [each[rows] for each in sources], [table[rows] for table in tables])

    def batch(self, step: Step, views: list[Tensor]) -> Batch:
        targets = self.dataset.targets
        if views[0].ndim == 4:  # images, in the memory format in which convolutions are fast
            views = [view.contiguous(memory_format=torch.channels_last) for view in views]
        return Batch(step.index, views, None if targets is None else targets[step.index])

    def check_views(self, image: Tensor) -> list[Tensor]:
        """The views of a uint8 (1, 3, H, W) image. Raises UserError if a transform does not fit it."""
        return [apply(transform, image, draw(transform, 1, torch.Generator())) for transform in self.views]
