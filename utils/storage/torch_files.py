"""Files of PyTorch: tensors and plain values, read without running anything that is in them."""

import io
import struct
import warnings
from pathlib import Path

import torch

from utils.errors import UserError
from utils.storage.files import verify_manifest


class _NumberType:
    """Stands for NumPy's dtype in a pickle, of four kinds of numbers and no more.

    NumPy's own takes a shape from the file, even where it is an integer's, and then reads beyond its bytes."""

    def __init__(self, name: str, *flags):
        self.letter = {"i4": "i", "i8": "q", "f4": "f", "f8": "d"}[name]

    def __setstate__(self, state: tuple):
        _, self.order, *claims = state  # `<` or `>`
        if claims != [None, None, None, -1, -1, 0]:
            raise ValueError("more than the type of a number")


def _number(number_type: _NumberType, content: bytes) -> int | float:
    return struct.unpack(number_type.order + number_type.letter, content)[0]


NUMPY_NUMBERS = [  # what makes a number of NumPy in a pickle, as NumPy 1 and as NumPy 2 name it, and what is called
    (_NumberType, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
]


def to_bytes(content: dict) -> bytes:
    """Tensors and plain Python types as a PyTorch file; equal content gives equal bytes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def read_file(path) -> dict:
    """As `read_tensors`, of a file that must be whole. Raises RunError where a record beside it says it is not."""
    if not Path(path).is_file():
        raise UserError(
            f"{path} not found: run the stage that writes it (--restart if it is finished) or mend the path"
        )
    verify_manifest(Path(path))
    return read_tensors(path)


def read_tensors(path) -> dict:
    """The content of a weight file or checkpoint, on the CPU, in PyTorch's present or former format. Tensors, plain
    types and numbers of NumPy (as plain ones) are read; raises UserError for a file with anything else in it."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(NUMPY_NUMBERS):
            warnings.simplefilter("ignore")  # PyTorch explains a bad file at length
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and zipfile raise a dozen kinds for a bad file
        raise UserError(
            f"{path} ({Path(path).stat().st_size} bytes) cannot be read: it is damaged, no PyTorch file, or holds more "
            "than tensors and plain values; nothing in it was run; put the right file there or make it anew"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no named weights but a {type(content).__name__}: give a model.pth.tar")
    return content
