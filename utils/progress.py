"""One epoch as the user sees it: a bar, and the averages of what was measured."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from utils.errors import RunError


class Progress:
    """Iterate over a loader's batches with a bar (loss, images/s, time left); collect measurements on the device.

    Nothing is read from the device but every `log_every` steps and at the end."""

    def __init__(self, loader, epoch: int, log_every: int):
        self.loader, self.epoch, self.log_every = loader, epoch, log_every
        self.sums: dict[str, Tensor] = {}
        self.step = self.measured = 0  # the loader's step, from 1, and how many of them were measured
        self.first_bad_step = torch.zeros((), dtype=torch.long)  # 0: none so far

    def __iter__(self) -> Iterator:
        self.start, self.images = time.perf_counter(), 0
        total = len(self.loader) * self.loader.batch_size
        with tqdm(total=total, unit="img", desc=f"epoch {self.epoch + 1}", disable=None, leave=False) as bar:
            for batch in self.loader:
                self.step += 1
                yield batch
                self.images += len(batch.index)
                bar.update(len(batch.index))
                if self.step % self.log_every == 0 and self.measured:
                    bar.set_postfix(loss=f"{self.averages()['train/loss']:.4f}")

    def update(self, **values: Tensor) -> None:
        """Add one step's measurements, 0-d tensors on one device: `loss` and what else there is."""
        measurements = torch.stack([value.detach() for value in values.values()]).double()
        for name, value in zip(values, measurements, strict=True):
            self.sums[name] = self.sums.get(name, 0) + value
        first_bad = self.first_bad_step.to(measurements.device)
        self.first_bad_step = torch.where(measurements.isfinite().all() | (first_bad > 0), first_bad, self.step)
        self.measured += 1

    def averages(self) -> dict[str, float]:
        """The mean over the steps measured so far, named `train/<name>`, and `train/images_per_second`.

        Raises RunError naming the first step that was not finite."""
        if bad := int(self.first_bad_step):  # waits for the device
            raise RunError(
                f"the loss was not finite in epoch {self.epoch + 1}, step {bad}: nothing of this epoch was saved; "
                "a lower optimizer_kwargs.lr or precision: fp32 usually helps"
            )
        averages = {f"train/{name}": (value / self.measured).item() for name, value in self.sums.items()}
        return averages | {"train/images_per_second": self.images / (time.perf_counter() - self.start)}
