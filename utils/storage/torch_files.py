"""PyTorch files: tensors and plain values, read without running any code in them."""

import io
import struct
import warnings
from pathlib import Path

import torch

from utils.device import lack_of_memory
from utils.errors import UserError
from utils.stages import MODEL
from utils.storage.files import verify_manifest


class _NumberType:
    """Stands for NumPy's dtype, which would take a shape from the file and read beyond a number's bytes."""

    def __init__(self, name: str, *flags):
        self.letter = {"i4": "i", "i8": "q", "f4": "f", "f8": "d"}[name]

    def __setstate__(self, state: tuple):
        _, self.order, *rest = state  # `<` or `>`
        if rest != [None, None, None, -1, -1, 0]:
            raise ValueError("not the type of a plain number")

    def unpack(self, content: bytes) -> int | float:
        return struct.unpack(self.order + self.letter, content)[0]


# What runs here, and the name it has in a pickle of NumPy 1 or 2.
NUMPY_NUMBERS = [(_NumberType, "numpy.dtype")]
NUMPY_NUMBERS += [(_NumberType.unpack, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]


def to_bytes(content: dict) -> bytes:
    """Tensors and plain Python types as a PyTorch file; equal content gives equal bytes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def read_file(path) -> dict:
    """`read_tensors`, or `read_safetensors`, of a file that must be there (UserError) and fit its manifest
    (RunError)."""
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder: give the file in it, such as {Path(path, MODEL)}")
    if not Path(path).is_file():
        raise UserError(f"{path} not found: run the stage that writes it (with --restart), or mend the path")
    verify_manifest(Path(path))
    return (read_safetensors if Path(path).suffix == ".safetensors" else read_tensors)(path)


def read_safetensors(path) -> dict:
    """The tensors in a `.safetensors` file. Raises UserError if it is none."""
    from safetensors.torch import load_file  # of the library timm

    try:
        return load_file(path)
    except Exception as error:  # of several kinds
        raise UserError(f"{path} cannot be read ({error}): put the right safetensors file there") from error


def read_tensors(path) -> dict:
    """The content of a weight file or checkpoint (zip or legacy format), on the CPU, NumPy's numbers as plain
    ones. Raises UserError if there is more than tensors and plain types."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(NUMPY_NUMBERS):
            warnings.simplefilter("ignore")  # PyTorch's advice on a bad file, such as another pickle protocol
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and zipfile raise a dozen kinds for a bad file
        if lack_of_memory(error):
            raise
        fault = "it is damaged, or holds more than tensors and plain values (nothing in it was run)"
        size = Path(path).stat().st_size
        raise UserError(f"{path} ({size} bytes) cannot be read: {fault}; put the right file there") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no named weights but a {type(content).__name__}: give a model.pth.tar")
    return content
