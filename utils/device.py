"""Where a script computes."""

import torch

from utils.errors import UserError


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda was asked for, but PyTorch sees no CUDA device: use device=auto or device=cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
