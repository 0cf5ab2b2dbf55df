"""Batches of cached features in place of views."""

from collections.abc import Iterator

import torch
from torch import Tensor

from data.loader.base import Batch, Loader
from utils.device import near, sent


class FeatureLoader(Loader):
    """Batches of cached features in place of views, for a model whose backbone is frozen.

    features: (V, N, D), V views of N images. For each view of a batch, each image shows a random one."""

    def __init__(self, features: Tensor, *arguments, **options):
        super().__init__(*arguments, **options)
        self.features = near(features, self.device)

    def draw(self, _, batch: int, generator: torch.Generator) -> Tensor:
        return torch.randint(len(self.features), (batch,), generator=generator)

    def batches(self) -> Iterator[Batch]:
        for step in self.steps():
            rows = map(torch.stack, zip(step.tables, step.sources, strict=True))  # (2, B) for each view
            rows = [tuple(sent(view, self.features.device)) for view in rows]
            yield self.batch(step, [sent(self.features[view], self.device) for view in rows])  # (B, D) each
