"""Choose the loader for a data set: images in memory or in files."""

from data.dataset import FeatureDataset, StreamedDataset
from data.loader.base import Loader
from data.loader.features import FeatureLoader
from data.loader.resident import ResidentLoader
from data.loader.streamed import StreamedLoader

EVAL_BATCH_SIZE = 512


def build_loader(dataset, views, batch_size, device="cpu", *, train=False, neighbors=None, seed=0) -> Loader:
    """The `Loader` with these arguments for the data set's kind.

    Raises UserError when training would have no batch, and for transforms that do not fit the images."""
    options = {"train": train, "neighbors": neighbors, "seed": seed}
    if isinstance(dataset, FeatureDataset):
        return FeatureLoader(dataset.images[None], dataset, views, batch_size, device, **options)
    kind = StreamedLoader if isinstance(dataset, StreamedDataset) else ResidentLoader
    return kind(dataset, views, batch_size, device, **options)


def eval_loader(dataset, transform: tuple, device) -> Loader:
    """Every image once, in order, under the val transform."""
    return build_loader(dataset, [transform], EVAL_BATCH_SIZE, device)
