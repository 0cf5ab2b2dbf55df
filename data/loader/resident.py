"""Batches of images held in memory."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from data.augment import apply, draw
from data.loader.base import Batch, Loader, Step
from utils.device import sent

# Bytes of float images or views that one call augments, of several steps: many small calls take longer.
AT_ONCE = 2**26


class ResidentLoader(Loader):
    """Batches of a data set whose images are one uint8 tensor."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.images = self.dataset.images_on(self.device)
        views = self.check_views(self.images[:1])
        image_bytes = sum(max(view.nbytes, 4 * self.images[0].nbytes) for view in views)
        self.group = max(1, AT_ONCE // (self.batch_size * image_bytes))  # steps in one call

    def __iter__(self) -> Iterator[Batch]:
        steps = self.steps(self.first_step)
        while group := list(islice(steps, self.group)):
            yield from self._batches(group)

    def _batches(self, group: list[Step]) -> Iterator[Batch]:
        sizes = [len(step.index) for step in group]
        tables = [[draw(views, len(step.index), step.generator) for views in self.views] for step in group]
        sources = zip(*(step.sources for step in group), strict=True)
        views = [  # for each transform its view of each step
            apply(transform, self._images(torch.cat(source)), torch.cat(table)).split(sizes)
            for transform, source, table in zip(self.views, sources, zip(*tables, strict=True), strict=True)
        ]
        for step, *of_step in zip(group, *views, strict=True):
            yield self.batch(step, of_step)

    def _images(self, rows: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) on the device."""
        return sent(self.images[sent(rows, self.images.device)], self.device)
