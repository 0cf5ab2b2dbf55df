"""Hands out batches of augmented views on the device, the same for images in memory and for images in files."""

from collections.abc import Iterator

import torch
from torch import Tensor

from data.augment import apply, draw
from data.batches import Batch, Loader
from data.image_files import StreamedDataset
from data.streamed_loader import StreamedLoader
from utils.errors import UserError


class ResidentLoader(Loader):
    """Batches of a data set whose images lie in one uint8 tensor."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.images = self.dataset.images_on(self.device)
        for strategy in self.views:  # what does not fit the images is said before the first epoch
            apply(self.images[:1], draw(strategy, 1, torch.Generator()))

    def __iter__(self) -> Iterator[Batch]:
        for step in self.steps():
            tables = [draw(strategy, len(step.index), step.generator) for strategy in self.views]
            pairs = zip(step.sources, tables, strict=True)
            yield self.batch(step, [apply(self._gather(source), table) for source, table in pairs])

    def _gather(self, index: Tensor) -> Tensor:
        chosen = self.images[index.to(self.images.device, non_blocking=True)]  # uint8 (B, 3, H, W)
        return chosen.to(self.device, non_blocking=True)


def build_loader(
    dataset, views: list, batch_size: int, device="cpu", *, train=False, neighbors: Tensor | None = None, seed: int = 0
) -> Loader:
    """Iterate over `dataset` in batches with one view of each image for each strategy in `views`.

    train: shuffled, the last incomplete batch dropped; otherwise every image once, in order. neighbors: int64 (N, T+1),
    column 0 the image itself; then the second view shows, in place of the image, one of its row drawn uniformly.
    Raises UserError when training would have no batch at all, and for views that the images do not allow."""
    if train and len(dataset) < batch_size:
        raise UserError(
            f"batch_size {batch_size} is larger than the training set ({len(dataset)} images), which leaves no batch: "
            f"set batch_size to at most {len(dataset)}"
        )
    if neighbors is not None and len(neighbors) != len(dataset):
        raise ValueError(f"{len(neighbors)} rows of neighbors for {len(dataset)} images")
    loader = StreamedLoader if isinstance(dataset, StreamedDataset) else ResidentLoader
    return loader(dataset, views, batch_size, device, train, neighbors, seed)
