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
        self.steps, self.first_bad_step = 0, None

    def __iter__(self) -> Iterator:
        start, images = time.perf_counter(), 0
        total = len(self.loader) * self.loader.batch_size
        with tqdm(total=total, unit="img", desc=f"epoch {self.epoch + 1}", disable=None, leave=False) as bar:
            for step, batch in enumerate(self.loader, start=1):
                yield batch
                images += len(batch.index)
                bar.update(len(batch.index))
                if step % self.log_every == 0 and "loss" in self.sums and not bar.disable:
                    bar.set_postfix(loss=f"{self.sums['loss'].item() / self.steps:.4f}")
        self.images_per_second = images / (time.perf_counter() - start)

    def update(self, **values: Tensor) -> None:
        """Add one step's measurements: 0-d tensors, or plain numbers."""
        finite = torch.ones((), dtype=torch.bool)
        for name, value in values.items():
            value = torch.as_tensor(value).detach()
            self.sums[name] = self.sums.get(name, 0) + value.double()
            finite = finite.to(value.device) & value.isfinite()
        if self.first_bad_step is None:                              # on the device: no wait in a step
            self.first_bad_step = torch.full_like(finite, -1, dtype=torch.long)
        new = ~finite & (self.first_bad_step < 0)
        self.first_bad_step = torch.where(new, self.steps, self.first_bad_step)
        self.steps += 1

    def averages(self) -> dict[str, float]:
        """The mean over the steps, named `train/<name>`. Raises RunError naming the first step that was not finite."""
        if self.steps and (bad := int(self.first_bad_step)) >= 0:
            raise RunError(
                f"the loss was not finite in epoch {self.epoch + 1}, step {bad + 1}: nothing of this epoch was saved; "
                "a lower optimizer_kwargs.lr or precision: fp32 usually helps"
            )
        averages = {f"train/{name}": (value / self.steps).item() for name, value in self.sums.items()}
        return averages | {"train/images_per_second": self.images_per_second}
