"""Batches of kept features in place of views."""

from collections.abc import Iterator

import torch
from torch import Tensor

from data.loader.base import Batch, Loader
from utils.device import near, sent


class FeatureLoader(Loader):
    """Batches of kept features in place of augmented views, for a network whose backbone is frozen.

    features: (V, N, D), on the device if they take at most a quarter of its free memory. Each view of a batch is one of
    the V of each image, drawn anew."""

    def __init__(self, features: Tensor, *arguments):
        super().__init__(*arguments)
        self.features = near(features, self.device)

    def __iter__(self) -> Iterator[Batch]:
        for step in self.steps(self.first_step):
            views = []
            for source in step.sources:
                which = torch.randint(len(self.features), (len(source),), generator=step.generator)
                which, source = (
                    index.to(self.features.device, non_blocking=True) for index in (which, source)
                )
                views.append(sent(self.features[which, source], self.device))  # (B, D)
            yield self.batch(step, views)
