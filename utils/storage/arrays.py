"""Arrays in `.npy` files."""

import io
from pathlib import Path

import numpy as np
from torch import Tensor

from utils.errors import UserError


def to_npy(values: Tensor) -> bytes:
    """The content of a `.npy` file."""
    file = io.BytesIO()
    np.save(file, values.numpy())
    return file.getvalue()


def open_features(path: str | Path) -> np.ndarray:
    """The features (N, D) in a `.npy` file, memory-mapped. Raises UserError for anything else."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.ndim != 2 or array.dtype.kind != "f" or 0 in array.shape:
            raise ValueError(f"it holds {array.dtype} of shape {array.shape}")
    except (OSError, ValueError, EOFError, AttributeError) as error:
        raise UserError(f"{path} holds no features: {error}; save floats (N, D) with numpy.save") from error
    return array
