"""Small conversions between arrays, tensors and numbers."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor


def integers(values: ArrayLike | Tensor) -> Tensor:
    return torch.as_tensor(values).cpu().long()


def floats(values: ArrayLike | Tensor) -> Tensor:
    return torch.as_tensor(values).cpu().float()


def finite(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics without those that could not be computed: NaN, which is no JSON, or infinite."""
    return {k: value for k, value in metrics.items() if not isinstance(value, float) or math.isfinite(value)}


def share(hits: Tensor) -> float:
    return hits.double().mean().item()


def evenly_spaced(number: int, total: int) -> Tensor:
    """At most `number` of the rows 0 to total - 1, int64."""
    number = min(number, total)
    return torch.arange(number) * total // number
