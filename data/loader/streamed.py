"""Batches of images that stay in files: worker processes read them ahead of the training loop."""

import gc
import multiprocessing
import os
import signal
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.augment import apply, draw
from data.dataset import StreamedDataset
from data.image_files import reason_of
from data.loader.base import Batch, Loader, Step
from utils.device import cpu_count
from utils.errors import RunError, UserError, lost_worker

READ_AT_ONCE = 64  # images; a whole batch of 4096 would fill the memory shared with the workers
SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
                return RunError(
                    f"{self.dataset.path(source)} cannot be read ({reason_of(error)}), but could be when its "
                    "folder was checked: repair it, or touch the folder"
                )
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

    def __init__(self, *arguments):
        super().__init__(*arguments)
        several_sizes = self.dataset.side is None
        self.crops = [_leading_crops(transform) if several_sizes else () for transform in self.views]
        first = [np.zeros((1, 1), int), np.zeros((1, 0), np.float32)]  # the first image, uncropped
        self.check_views(*_sound(ImageReader(self.dataset, [()])[first]))
        self.ahead: deque[tuple[Step, list[Tensor]]] = deque()  # steps that are being read, and their tables
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

    def items(self) -> Iterator[list[np.ndarray]]:
        """What the workers read in this pass, READ_AT_ONCE images per view at a time."""
        self.ahead.clear()
        for step in self.steps(self.first_step):
            tables = [draw(transform, len(step.index), step.generator) for transform in self.views]
            self.ahead.append((step, tables))
            tables = [table[:, : _columns(crops)] for crops, table in zip(self.crops, tables, strict=True)]
            parts = (values.split(READ_AT_ONCE) for values in (torch.stack(step.sources, dim=1), *tables))
            yield from ([values.numpy() for values in part] for part in zip(*parts, strict=True))

    def __iter__(self) -> Iterator[Batch]:
        with _signals_blocked():
            parts = iter(self.reader)
        for _ in range(self.first_step, len(self)):
            first = self._next(parts)
            step, tables = self.ahead.popleft()
            others = [self._next(parts) for _ in range(READ_AT_ONCE, len(step.index), READ_AT_ONCE)]
            images = map(torch.cat, zip(first, *others, strict=True))  # uint8 (B, 3, h, w) for each view
            views = [
                apply(transform[len(crops) :], shown, table[:, _columns(crops) :])
                for transform, crops, shown, table in zip(self.views, self.crops, images, tables, strict=True)
            ]
            yield self.batch(step, views)

    def _next(self, parts: Iterator) -> list[Tensor]:
        try:
            return [images.to(self.device, non_blocking=True) for images in _sound(next(parts))]
        except RuntimeError as error:
            if message := lost_worker(error):
                raise RunError(message) from error
            raise


class _Items:
    """What to read, as a sampler for PyTorch: iterating over the loader itself gives batches."""

    def __init__(self, loader: StreamedLoader):
        self.loader = loader

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return self.loader.items()


def _columns(steps: tuple) -> int:
    return sum(step.columns for step in steps)


def _leading_crops(transform: tuple) -> tuple:
    """The first steps, crops and flips, which take images of many sizes; one of them sets the size."""
    crops = tuple(takewhile(lambda step: hasattr(step, "apply_to_image"), transform))
    if not any(hasattr(step, "size") for step in crops):
        raise UserError(
            f"{type(transform[0]).__name__} takes images of one size, but the files hold images of many: "
            "choose augmentation_strategy: simclr, ours or standard"
        )
    return crops


def _sound(views: list[Tensor] | RunError) -> list[Tensor]:
    if isinstance(views, RunError):
        raise views
    return views


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Workers started here never see SIGINT and SIGTERM: the parent needs them to finish its step."""
    if not hasattr(signal, "sigwaitinfo"):  # macOS, Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(_: int) -> None:
    gc.freeze()  # objects of the parent, such as other loaders, must not be finalized here
    warnings.simplefilter("ignore")  # Pillow's, about odd EXIF and transparency
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    """A parent that exits sends SIGTERM to its children and waits for them: obey this one, no other."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != multiprocessing.parent_process().pid:
        pass
    os._exit(0)
