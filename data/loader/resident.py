"""Batches of augmented views of images that lie in memory."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from data.augment import apply, draw, join
from data.loader.base import Batch, Loader, Step
from utils.device import sent

# Bytes of views, or of their images as floats where these take more: of as many steps as that is the images are
# augmented in one call. On any device many small calls take longer than few.
AT_ONCE = 2**26


class ResidentLoader(Loader):
    """Batches of a data set whose images lie in one uint8 tensor."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.images = self.dataset.images_on(self.device)
        # What does not fit the images is said before the first epoch.
        samples = [apply(self.images[:1], draw(strategy, 1, torch.Generator())) for strategy in self.views]
        taken = sum(
            max(sample.nbytes, 4 * self.images[0].nbytes) for sample in samples
        )  # by an image of each view
        self.group = max(1, AT_ONCE // (self.batch_size * taken))  # in steps

    def __iter__(self) -> Iterator[Batch]:
        done = self.first_step % self.group  # a pass that goes on has the groups of a whole one
        steps = self.steps(self.first_step - done)
        while group := list(islice(steps, self.group)):
            yield from islice(self._batches(group), done, None)
            done = 0

    def _batches(self, group: list[Step]) -> Iterator[Batch]:
        sizes = [len(step.index) for step in group]
        tables = [
            [draw(strategy, len(step.index), step.generator) for strategy in self.views] for step in group
        ]
        sources = [step.sources for step in group]
        views = [  # for each view the float images of each step
            apply(self._gather(torch.cat(source)), join(table)).split(sizes)
            for source, table in zip(zip(*sources, strict=True), zip(*tables, strict=True), strict=True)
        ]
        for step, *of_step in zip(group, *views, strict=True):
            yield self.batch(step, of_step)

    def _gather(self, index: Tensor) -> Tensor:
        chosen = self.images[index.to(self.images.device, non_blocking=True)]  # uint8 (B, 3, H, W)
        return sent(chosen, self.device)
