"""One epoch as the user sees it: a bar, and the averages of what was measured."""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from tqdm import tqdm

from utils.errors import RunError


class Progress:
    """Iterate over a loader's batches with a bar (loss, images/s, time left); collect measurements on the device.

    parameters: whose gradients are watched, too. after_step: called when a step is done, with this Progress.
    Nothing is read from the device but every `log_every` steps and at the end."""

    def __init__(
        self, loader, epoch: int, log_every: int, parameters=(), after_step: Callable = lambda _: None
    ):
        self.loader, self.epoch, self.log_every = loader, epoch, log_every
        self.parameters, self.after_step = list(parameters), after_step
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor | int] = {}
        self.step = self.measured = 0  # steps done in this epoch, and how many of them were measured
        self.terms: list[str] = []
        self.first_bad = torch.zeros(
            0, dtype=torch.long
        )  # for each term its first step that was not finite, 0: none

    def state(self) -> dict:
        """Tensors and plain values from which `go_on` takes the epoch up again."""
        return {"step": self.step, "measured": self.measured, "sums": self.sums, "counts": self.counts}

    def go_on(self, state: dict) -> None:
        """Take up an epoch that was stopped after `state["step"]` steps."""
        self.step, self.measured, self.sums, self.counts = (
            state[name] for name in ("step", "measured", "sums", "counts")
        )

    def __iter__(self) -> Iterator:
        self.start, self.images = time.perf_counter(), 0
        size = self.loader.batch_size
        images = {"total": len(self.loader) * size, "initial": self.step * size, "unit": "img"}
        with tqdm(**images, desc=f"epoch {self.epoch + 1}", disable=None, leave=False) as bar:
            for batch in self.loader:
                yield batch
                self.step += 1
                self.images += len(batch.index)
                bar.update(len(batch.index))
                if self.step % self.log_every == 0 and self.measured:
                    bar.set_postfix(loss=f"{self.averages()['train/loss']:.4f}")
                self.after_step(self)

    def update(self, **values: Tensor) -> None:
        """Add one step's measurements, 0-d tensors on one device: `loss` and what else there is."""
        measurements = torch.stack([value.detach() for value in values.values()]).double()
        for name, value in zip(values, measurements, strict=True):
            self.sums[name] = self.sums.get(name, 0) + value
        if gradients := [parameter.grad for parameter in self.parameters if parameter.grad is not None]:
            norm = get_total_norm(gradients).double()[None]
            measurements = torch.cat([measurements, norm.to(measurements.device)])
        self.terms = [*values, "gradient"][: len(measurements)]
        if not len(self.first_bad):
            self.first_bad = torch.zeros_like(measurements, dtype=torch.long)
        self.first_bad = torch.where(
            measurements.isfinite() | (self.first_bad > 0), self.first_bad, self.step + 1
        )
        self.measured += 1

    def count(self, **numbers: Tensor | int) -> None:
        """Add to the epoch's `counts`."""
        for name, number in numbers.items():
            self.counts[name] = self.counts.get(name, 0) + number

    def averages(self) -> dict[str, float]:
        """The mean over the steps measured so far, named `train/<name>`, and `train/images_per_second`.

        Raises RunError naming the first step that was not finite, and what in it."""
        if any(steps := self.first_bad.tolist()):  # waits for the device
            first = min(step for step in steps if step)
            terms = [name for name, step in zip(self.terms, steps, strict=True) if step == first]
            raise RunError(
                f"not finite in epoch {self.epoch + 1}, step {first}: {', '.join(terms)}; what was saved is whole: "
                "try a lower optimizer_kwargs.lr, or precision=fp32"
            )
        averages = {f"train/{name}": (value / self.measured).item() for name, value in self.sums.items()}
        return averages | {"train/images_per_second": self.images / (time.perf_counter() - self.start)}
