"""Small conversions between arrays, tensors and numbers, and full precision for what computes with them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from numpy.typing import ArrayLike
from torch import Tensor


def integers(values: ArrayLike | Tensor) -> Tensor:
    return torch.as_tensor(values).cpu().long()


def floats(values: ArrayLike | Tensor) -> Tensor:
    return torch.as_tensor(values).cpu().float()


def share(hits: Tensor) -> float:
    return hits.double().mean().item()


def evenly_spaced(number: int, total: int) -> Tensor:
    """At most `number` of the rows 0 to total - 1, int64."""
    number = min(number, total)
    return torch.arange(number) * total // number


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute in fp32 inside the block: no autocast, no TF32. The settings are restored after it."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
