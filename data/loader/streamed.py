"""Batches of images that lie in files: worker processes decode and crop, the device does the rest."""

import gc
import os
import signal
import weakref
from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.augment import apply, draw
from data.dataset import StreamedDataset
from data.image_files import reason_of
from data.loader.base import Batch, Loader, Step, seeded_generator
from utils.device import cpu_count
from utils.errors import RunError, UserError, lost_worker
from utils.run import signals as stopping

CHUNK = 64  # images that a worker reads at a time: a whole batch of 4096 would fill the memory they share


class CroppedImages(Dataset):
    """What a worker does: item (epoch, index, sources) is one uint8 view (3, h, w) of each source.

    An image that several views show is decoded once. Crops are drawn from (seed, epoch, index, view + 1). A file that
    cannot be read is returned as the words that say so."""

    def __init__(self, dataset: StreamedDataset, strategies: list[tuple], seed: int):
        self.dataset, self.strategies, self.seed = dataset, strategies, seed

    def __getitem__(self, item: tuple) -> list[Tensor] | str:
        epoch, index, sources = item
        images, views = {}, []
        for view, (source, strategy) in enumerate(zip(sources, self.strategies, strict=True)):
            if source not in images:
                try:
                    images[source] = self.dataset.get_image(source)
                except Exception as error:  # Pillow raises a dozen kinds
                    return f"{self.dataset.path(source)} cannot be read ({reason_of(error)})"
            image, generator = images[source], seeded_generator(self.seed, epoch, index, view + 1)
            for step in strategy:
                image = step.apply_to_image(image, step.draw(1, generator)[0] if step.columns else None)
            views.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
        return views


class StreamedLoader(Loader):
    """Batches of a data set whose images lie in files.

    The steps of a strategy up to its last crop or flip are taken image by image in the workers, as Pillow does them,
    the others batch by batch on the device."""

    def __init__(self, dataset: StreamedDataset, views: list, *arguments):
        super().__init__(dataset, views, *arguments)
        parts = [_split(strategy, dataset.side) for strategy in views]
        self.on_device = [on_device for _, on_device in parts]
        images = CroppedImages(dataset, [in_worker for in_worker, _ in parts], self.seed)
        sample = _together(
            [images[0, 0, (0,) * len(views)]]
        )  # what does not fit is said before the first epoch
        for view, strategy in zip(_sound(sample), self.on_device, strict=True):
            apply(view, draw(strategy, 1, torch.Generator()))
        workers = min(dataset.num_workers, cpu_count())
        self.ahead: deque[Step] = deque()  # steps whose images were ordered
        self.reader = DataLoader(
            images,
            batch_sampler=_Orders(
                weakref.proxy(self)
            ),  # no circle: the workers end with the last name of the loader
            num_workers=workers,
            collate_fn=_together,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_leave_signals_to_the_parent,
            persistent_workers=self.train and workers > 0,  # else they end with each pass
        )

    def orders(self) -> Iterator[list[tuple]]:
        """For the reader: what to read, chunk by chunk."""
        self.ahead.clear()
        for step in self.steps(self.first_step):
            self.ahead.append(step)
            items = zip(step.index.tolist(), *(source.tolist() for source in step.sources), strict=True)
            items = [(self.epoch, index, tuple(sources)) for index, *sources in items]
            yield from (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))

    def __iter__(self) -> Iterator[Batch]:
        with stopping.held_back():  # what a signal raises in the middle of a fork, Python throws away
            chunks = iter(self.reader)
        for _ in range(self.first_step, len(self)):
            first = self._next(chunks)
            step = self.ahead.popleft()
            read = [first] + [self._next(chunks) for _ in range(CHUNK, len(step.index), CHUNK)]
            images = [torch.cat(view) for view in zip(*read, strict=True)]  # uint8 (B, 3, h, w) of each view
            tables = [draw(strategy, len(step.index), step.generator) for strategy in self.on_device]
            yield self.batch(step, [apply(view, table) for view, table in zip(images, tables, strict=True)])

    def _next(self, chunks: Iterator) -> list[Tensor]:
        try:
            views = _sound(next(chunks))
        except RuntimeError as error:
            if reason := lost_worker(error):
                raise RunError(reason) from error
            raise
        return [view.to(self.device, non_blocking=True) for view in views]


class _Orders:
    """The loader's orders as a batch sampler, each pass anew."""

    def __init__(self, loader: StreamedLoader):
        self.loader = loader

    def __iter__(self) -> Iterator[list[tuple]]:
        return self.loader.orders()


def _split(strategy: tuple, side: int | None) -> tuple[tuple, tuple]:
    """The steps taken in the worker and those taken on the device; without a `side` images are of many sizes."""
    in_worker = 0
    while in_worker < len(strategy) and hasattr(strategy[in_worker], "apply_to_image"):
        in_worker += 1
    if side is None and not any(hasattr(step, "size") for step in strategy[:in_worker]):
        raise UserError(
            f"the views begin with {type(strategy[0]).__name__}, which takes images of one size, but the files hold "
            "images of many sizes: choose augmentation_strategy: simclr, ours or standard"
        )
    return strategy[:in_worker], strategy[in_worker:]


def _together(items: list[list[Tensor] | str]) -> list[Tensor] | str:
    """One uint8 (B, 3, h, w) for each view; or what is said of the first file that could not be read."""
    faults = [item for item in items if isinstance(item, str)]
    return faults[0] if faults else [torch.stack(view) for view in zip(*items, strict=True)]


def _sound(views: list[Tensor] | str) -> list[Tensor]:
    if isinstance(views, str):
        raise RunError(
            f"{views}, but could be when its folder was checked: put it right, or touch the folder"
        )
    return views


def _leave_signals_to_the_parent(_: int) -> None:
    """It may have a step to finish for which the workers are needed; when it ends they end. So they leave its process
    group, to which a terminal and `timeout` send their signals."""
    gc.freeze()  # what the parent was about to throw away, such as other loaders, is not to be thrown away here
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setsid"):
        os.setsid()
    stopping.let_through()
