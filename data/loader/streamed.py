"""Batches of images that stay in files: worker processes read them ahead of the training loop."""

import gc
import multiprocessing
import signal
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, takewhile
from multiprocessing.util import Finalize

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.augment import apply
from data.dataset import StreamedDataset
from data.image_files import reason_of
from data.loader.base import Batch, Loader
from utils.device import cpu_count
from utils.errors import RunError, UserError
from utils.run.signals import STOPPING

READ_AT_ONCE = 64  # images; a whole batch of 4096 would fill the memory shared with the workers


class ImageReader(Dataset):
    """What the workers do: read images, and crop those that are of many sizes.

    Item [sources, values, ...]: sources, int64 (B, V), are the images that V views show; values, (B, n) for
    each view, the random numbers of its crops. Returns uint8 (B, 3, h, w) for each view, or the error of a
    file, which is not raised because PyTorch would add the worker's traceback to its message."""

    def __init__(self, dataset: StreamedDataset, crops: list[tuple]):
        self.dataset, self.crops = dataset, crops

    def __getitem__(self, item: list[np.ndarray]) -> list[Tensor] | RunError:
        sources, *tables = item
        images = {}
        for source in np.unique(sources).tolist():
            try:
                images[source] = self.dataset.get_image(source)
            except Exception as error:  # Pillow raises a dozen kinds
                problem = f"{self.dataset.path(source)} cannot be read any more ({reason_of(error)})"
                return RunError(f"{problem}: repair it, or touch its folder so that it is checked again")
        views = []
        for crops, shown, table in zip(self.crops, sources.T.tolist(), tables, strict=True):
            cropped = [_crop(images[source], crops, row) for source, row in zip(shown, table, strict=True)]
            views.append(torch.from_numpy(np.stack(cropped)).permute(0, 3, 1, 2).contiguous())
        return views


def _crop(image: Image.Image, crops: tuple, row: np.ndarray) -> np.ndarray:
    parts = torch.from_numpy(row).split([step.columns for step in crops])
    for step, values in zip(crops, parts, strict=True):
        image = step.apply_to_image(image, values)
    return np.asarray(image)


class StreamedLoader(Loader):
    """Batches of a data set whose images stay in files.

    Images of one size (`dataset.side`) are only decoded by the workers, so their views are those of the same
    images in memory, to the bit. Images of many sizes are also cropped and flipped there, as Pillow does it.
    All random numbers are drawn in the main process; all other steps work on batches, on the device."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.crops = [() if self.dataset.side else _leading_crops(transform) for transform in self.views]
        self.columns = [sum(step.columns for step in crops) for crops in self.crops]
        first = [np.zeros((1, 1), int), np.zeros((1, 0), np.float32)]  # the first image, uncropped
        self.check_views(*_sent(ImageReader(self.dataset, [()])[first], "cpu"))
        workers = min(self.dataset.num_workers, cpu_count())
        self.reader = DataLoader(
            ImageReader(self.dataset, self.crops),
            batch_size=None,
            sampler=_Items(weakref.proxy(self)),  # a weakref, so that workers stop when the loader is freed
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_start_worker,
            persistent_workers=self.train and workers > 0,
        )
        Finalize(None, _kill_workers, exitpriority=0)

    def batches(self) -> Iterator[Batch]:
        with _signals_held():
            parts = iter(self.reader)
        for step in self.steps():  # drawn again, as workers are steps ahead
            count = len(step.index[::READ_AT_ONCE])
            read = [_sent(part, self.device) for part in islice(parts, count)]
            images = map(torch.cat, zip(*read, strict=True))  # uint8 (B, 3, h, w) for each view
            transforms = [view[len(crops) :] for view, crops in zip(self.views, self.crops, strict=True)]
            tables = [table[:, columns:] for table, columns in zip(step.tables, self.columns, strict=True)]
            yield self.batch(step, list(map(apply, transforms, images, tables)))


class _Items:
    """What workers read in a pass, READ_AT_ONCE images per view at a time, as a sampler for PyTorch."""

    def __init__(self, loader: StreamedLoader):
        self.loader = loader

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        columns = self.loader.columns
        for step in self.loader.steps():
            tables = [table[:, :number] for table, number in zip(step.tables, columns, strict=True)]
            parts = (values.split(READ_AT_ONCE) for values in (torch.stack(step.sources, dim=1), *tables))
            yield from ([values.numpy() for values in part] for part in zip(*parts, strict=True))


def _leading_crops(transform: tuple) -> tuple:
    """The first steps, crops and flips, which take images of many sizes; one of them sets the size."""
    crops = tuple(takewhile(lambda step: hasattr(step, "apply_to_image"), transform))
    if not any(hasattr(step, "size") for step in crops):
        problem = f"{type(transform[0]).__name__} takes images of one size, but the files hold images of many"
        raise UserError(f"{problem}: choose augmentation_strategy: simclr, ours or standard")
    return crops


def _sent(views: list[Tensor] | RunError, device: torch.device | str) -> list[Tensor]:
    if isinstance(views, RunError):
        raise views
    return [images.to(device, non_blocking=True) for images in views]


@contextmanager
def _signals_held() -> Iterator[None]:
    """Signals are answered after the block: what a handler raises in the middle of a fork is lost."""
    if threading.current_thread() is not threading.main_thread():  # handlers run in the main thread alone
        yield
        return
    held = []
    before = {number: signal.signal(number, lambda number, _: held.append(number)) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in held[:1]:
            signal.raise_signal(number)


def _start_worker(_: int) -> None:
    gc.freeze()  # objects of the parent, such as other loaders, must not be finalized here
    for number in STOPPING:  # the parent needs its workers to finish its step
        signal.signal(number, signal.SIG_IGN)


def _kill_workers() -> None:
    """At exit Python ends child processes by SIGTERM, which workers ignore, and waits for them."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # with PyTorch's handler each dead worker is an error
    for worker in multiprocessing.active_children():
        worker.kill()
