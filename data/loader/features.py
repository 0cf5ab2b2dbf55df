"""Batches of cached features in place of views."""

from collections.abc import Iterator

import torch
from torch import Tensor

from data.loader.base import Batch, Loader
from utils.device import near, sent


class FeatureLoader(Loader):
    """Batches of cached features in place of views, for a model whose backbone is frozen.

    features: (V, N, D), V views of N images. For each view of a batch, each image shows a random one."""

    def __init__(self, features: Tensor, *arguments):
        super().__init__(*arguments)
        self.features = near(features, self.device)

    def __iter__(self) -> Iterator[Batch]:
        for step in self.steps():
            views = []
            for source in step.sources:
                view = torch.randint(len(self.features), (len(source),), generator=step.generator)
                rows = tuple(sent(torch.stack([view, source]), self.features.device))
                views.append(sent(self.features[rows], self.device))  # (B, D)
            yield self.batch(step, views)
