"""Different operations on different images of a batch, without waiting for the device."""

from collections.abc import Callable

import torch
from torch import Tensor

from utils.device import sent


def rows_by_kind(kinds: Tensor, number: int, device: torch.device) -> list[tuple[Tensor, ...]]:
    """For each column of `kinds` the rows of each kind, int64 on the device, ascending; sent in one copy.

    kinds: int64 (B, P) on the CPU, from 0 to number - 1."""
    rows = sent(kinds.T.argsort(dim=1, stable=True), device)  # (P, B)
    counts = [column.bincount(minlength=number).tolist() for column in kinds.T]
    return [column.split(sizes) for column, sizes in zip(rows, counts, strict=True)]


def change_rows(images: Tensor, rows: Tensor, operation: Callable, *parameters: Tensor) -> None:
    """Replace images[rows] by operation(images[rows], parameter[rows], ...), in place; images contiguous."""
    if len(rows):
        changed = operation(images.index_select(0, rows), *(values[rows] for values in parameters))
        _words(images)[rows] = _words(changed.contiguous())


def _words(images: Tensor) -> Tensor:
    """The same memory, one row per image, if possible in words of 16 bytes: PyTorch copies word by word."""
    rows = images.flatten(1)
    return rows.view(torch.complex128) if rows.shape[1] % 16 == 0 else rows
