"""One epoch as the user sees it: a bar, the averages, and the first step that was not finite."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from utils.console import progress
from utils.errors import RunError


@dataclass(eq=False)
class Meter:
    """Iterate over a loader's batches with a bar (loss, images/s, time left); collect measurements on the
    device.

    model: its gradients and weights are watched. after_step: called with this meter after each step. The
    other fields are the `state` of an epoch that was stopped, after which the meter goes on. The device is
    read only every `log_every` steps and at the end."""

    loader: object
    epoch: int = 0
    log_every: int = 10
    model: nn.Module = field(default_factory=nn.Module)
    after_step: Callable = lambda meter: None
    step: int = 0  # steps done
    measured: int = 0  # those of them that were measured
    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, Tensor | int] = field(default_factory=dict)

    def __post_init__(self):
        self.terms: list[str] = []
        self.first_bad = torch.zeros((), dtype=torch.long)  # per term, the first step not finite, or 0
        self.images = 0
        self.start = time.perf_counter()
        self.loader.set_epoch(self.epoch, self.step)

    def state(self) -> dict:
        """Tensors and plain values with which another meter goes on with the epoch."""
        return {"step": self.step, "measured": self.measured, "sums": self.sums, "counts": self.counts}

    def __iter__(self) -> Iterator:
        size = self.loader.batch_size
        images = {"total": len(self.loader) * size, "initial": self.step * size, "unit": "img"}
        with progress(**images, desc=f"epoch {self.epoch + 1}") as bar:
            for batch in self.loader:
                yield batch
                self.step += 1
                self.images += size
                bar.update(size)
                if self.step % self.log_every == 0 and self.measured:
                    bar.set_postfix(loss=f"{self._means()['train/loss']:.4f}")
                self.after_step(self)

    def update(self, **values: Tensor) -> None:
        """Add one step's measurements, 0-d tensors on one device: `loss` and what else there is."""
        measurements = torch.stack([value.detach() for value in values.values()]).double()
        for name, value in zip(values, measurements, strict=True):
            self.sums[name] = self.sums.get(name, 0) + value
        gradients = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        if gradients:
            norm = get_total_norm(gradients).double()[None]
            measurements = torch.cat([measurements, norm.to(measurements.device)])
        self.terms = [*values, "gradient"][: len(measurements)]
        self.first_bad = self.first_bad.to(measurements.device)
        is_new = ~measurements.isfinite() & (self.first_bad == 0)
        self.first_bad = torch.where(is_new, self.step + 1, self.first_bad)  # one for each term
        self.measured += 1

    def count(self, **numbers: Tensor | int) -> None:
        """Add to the epoch's `counts`."""
        for name, number in numbers.items():
            before = self.counts.get(name, 0)
            if isinstance(before, Tensor) and isinstance(number, Tensor):
                before = before.to(number.device)  # from a checkpoint it comes on the CPU
            self.counts[name] = before + number

    def averages(self) -> dict[str, float]:
        """The mean over the steps measured so far, named `train/<name>`, and `train/images_per_second`.

        Raises RunError naming the first step that was not finite, or after which the weights are not."""
        means = self._means()
        if not all(value.isfinite().all() for value in self.model.state_dict().values()):
            raise not_finite(f"the weights after epoch {self.epoch + 1}, step {self.step}")
        return means | {"train/images_per_second": self.images / (time.perf_counter() - self.start)}

    def _means(self) -> dict[str, float]:
        if self.first_bad.any():  # waits for the device
            first = self.first_bad[self.first_bad > 0].min()
            terms = [name for name, bad in zip(self.terms, self.first_bad == first, strict=True) if bad]
            raise not_finite(f"{', '.join(terms)} in epoch {self.epoch + 1}, step {first}")
        return {f"train/{name}": (value / self.measured).item() for name, value in self.sums.items()}


def not_finite(what: str) -> RunError:
    remedy = "lower optimizer_kwargs.lr, or give precision=fp32; what was saved is whole"
    return RunError(f"not finite: {what}; {remedy}")
