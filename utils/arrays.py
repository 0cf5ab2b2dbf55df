"""Small conversions between arrays, tensors and numbers."""

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
