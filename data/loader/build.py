"""Hands out batches of augmented views on the device, the same for images in memory and for images in files."""

from torch import Tensor

from data.dataset import StreamedDataset
from data.loader.base import Loader
from data.loader.resident import ResidentLoader
from data.loader.streamed import StreamedLoader
from utils.errors import UserError


def build_loader(
    dataset,
    views: list,
    batch_size: int,
    device="cpu",
    *,
    train=False,
    neighbors: Tensor | None = None,
    seed: int = 0,
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


EVAL_BATCH_SIZE = 512


def eval_loader(dataset, strategy: tuple, device) -> Loader:
    """Every image once, in order, under the val transform."""
    return build_loader(dataset, [strategy], EVAL_BATCH_SIZE, device)
