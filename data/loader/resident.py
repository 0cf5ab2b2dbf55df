"""Batches of images held in memory."""

from collections.abc import Iterator
from itertools import islice

import torch

from data.augment import apply
from data.loader.base import Batch, Loader
from utils.device import sent

# Bytes of float images or views that one call augments, of several steps: many small calls take longer.
AT_ONCE = 2**26


class ResidentLoader(Loader):
    """Batches of a data set whose images are one uint8 tensor."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.images = self.dataset.images_on(self.device)
        views = self.check_views(self.images[:1])
        image_bytes = sum(max(view.nbytes, 4 * self.images[0].nbytes) for view in views)
        self.group = max(1, AT_ONCE // (self.batch_size * image_bytes))  # steps in one call

    def batches(self) -> Iterator[Batch]:
        steps = self.steps()
        while group := list(islice(steps, self.group)):
            views = []  # for each transform its view of each step
            for number, transform in enumerate(self.views):
                rows = sent(torch.cat([step.sources[number] for step in group]), self.images.device)
                table = torch.cat([step.tables[number] for step in group])
                view = apply(transform, sent(self.images[rows], self.device), table)
                views.append(view.split([len(step.index) for step in group]))
            for step, *of_step in zip(group, *views, strict=True):
                yield self.batch(step, of_step)
