"""Where a script computes."""

import os

import torch

from utils.errors import UserError


def cpu_count() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda was asked for, but PyTorch sees no CUDA device: use device=auto or device=cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
