"""Fashion-MNIST (arXiv:1708.07747): 60,000 + 10,000 grey images of clothes, 10 classes, as idx files."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from data.dataset import ResidentDataset
from data.datasets.download import fetch
from utils.errors import UserError

CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
CLASSES += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # where the package dataset-fashion-mnist puts the files
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FILES = {  # name: SHA-256 of the gzipped file
    "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}


def read_fashion_mnist(split: str, folder: Path) -> ResidentDataset:
    """The `train` (60,000) or `val` (10,000) split, padded from 28 x 28 to 32 x 32 px with black.

    The files, gzipped or plain, are looked for in `folder`, in its FashionMNIST/raw (torchvision's place) and
    in Debian's; else they are downloaded into `folder`. Raises UserError for damaged and other files."""
    prefix = "t10k" if split == "val" else "train"
    paths = [_find_or_fetch(folder, name) for name in FILES if name.startswith(prefix)]
    try:
        images, labels = _read(paths[0], 16).reshape(-1, 28, 28), _read(paths[1], 8)
        if len(images) != len(labels) or labels.max(initial=0) > 9:
            raise ValueError(f"{len(images)} images, {len(labels)} labels up to {labels.max(initial=0)}")
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        remedy = "remove it, or name the right folder in db_root_dir.fashion-mnist=..."
        raise UserError(f"{paths[0]} or {paths[1].name} is damaged ({error}): {remedy}") from error
    images = F.pad(torch.tensor(images)[:, None], (2, 2, 2, 2)).expand(-1, 3, -1, -1)  # (N, 3, 32, 32)
    return ResidentDataset(images.contiguous(), torch.tensor(labels).long(), CLASSES)


def _read(path: Path, start: int) -> np.ndarray:
    """The bytes of an idx file, gzipped or not, after a header of `start` bytes."""
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        return np.frombuffer(file.read(), np.uint8, offset=start)


def _find_or_fetch(folder: Path, name: str) -> Path:
    for place in (folder, folder / "FashionMNIST" / "raw", DEBIAN):
        for path in (place / name, place / f"{name}.gz"):
            if path.is_file():
                return path
    path = folder.absolute() / f"{name}.gz"
    remedy = "(on Debian) apt-get install dataset-fashion-mnist"
    fetch("fashion-mnist", f"{URL}{path.name}", path, f"sha256:{FILES[name]}", remedy)
    return path
