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
FILES = {  # split: images and labels, with the SHA-256 of the gzipped files
    "train": {
        "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    },
    "val": {
        "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
}


def read_fashion_mnist(split: str, folder: Path) -> ResidentDataset:
    """The `train` (60,000) or `val` (10,000) split, padded from 28 x 28 to 32 x 32 px with black.

    The files, gzipped or plain, are looked for in `folder`, in its FashionMNIST/raw (torchvision's place) and
    in Debian's; else they are downloaded into `folder`."""
    image_file, label_file = (_find_or_fetch(folder, *file) for file in FILES[split].items())
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.shape != (len(labels), 28, 28) or labels.ndim != 1 or labels.max(initial=0) > 9:
        raise UserError(
            f"{image_file} {images.shape} and {label_file} {labels.shape} are not images of 28 x 28 px and "
            "labels 0 to 9: put Fashion-MNIST there, or name its folder in db_root_dir.fashion-mnist=..."
        )
    images = F.pad(torch.from_numpy(images)[:, None], (2, 2, 2, 2)).expand(-1, 3, -1, -1)  # (N, 3, 32, 32)
    return ResidentDataset(images.contiguous(), torch.from_numpy(labels).long(), CLASSES)


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in an idx file, gzipped or not. Raises UserError for a damaged file or another kind."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = bytearray(file.read())
        if content[:3] != b"\0\0\x08" or len(content) < 4:  # 0x08: unsigned bytes; then the number of sizes
            raise ValueError("not an idx file of bytes")
        start = 4 + 4 * content[3]
        shape = np.frombuffer(content[4:start], ">u4").tolist()
        return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it, and it is downloaded again") from error


def _find_or_fetch(folder: Path, name: str, sha256: str) -> Path:
    zipped = folder.absolute() / f"{name}.gz"
    for place in (folder, folder / "FashionMNIST" / "raw", DEBIAN):
        for path in (place / name, place / zipped.name):
            if path.is_file():
                return path
    remedy = "(on Debian) apt-get install dataset-fashion-mnist"
    fetch("fashion-mnist", f"{URL}{zipped.name}", zipped, f"sha256:{sha256}", remedy)
    return zipped
