"""Fashion-MNIST (arXiv:1708.07747): 60,000 + 10,000 grey pictures of clothes, 10 classes, as idx files."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.datasets import FashionMNIST
from torchvision.datasets.utils import download_url

from data.dataset import ResidentDataset
from data.datasets.download import downloading
from utils.errors import UserError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # where the package dataset-fashion-mnist puts the files
PREFIXES = {"train": "train", "val": "t10k"}


def read_fashion_mnist(split: str, folder: Path) -> ResidentDataset:
    """The `train` (60,000) or `val` (10,000) split, a black border of 2 px making 32 x 32 px out of 28 x 28.

    Files `train-images-idx3-ubyte` and so on, gzipped or plain, are looked for in `folder`, where torchvision would
    have put them in it, and where Debian's package puts them; where they are in none, they are downloaded."""
    names = [f"{PREFIXES[split]}-images-idx3-ubyte", f"{PREFIXES[split]}-labels-idx1-ubyte"]
    places = [folder, folder / "FashionMNIST" / "raw", DEBIAN]
    found = [paths for place in places if (paths := [_find(place, name) for name in names]) and all(paths)]
    image_file, label_file = found[0] if found else _download(folder, names)
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.shape != (len(labels), 28, 28) or labels.ndim != 1 or labels.max(initial=0) > 9:
        raise UserError(
            f"{image_file} {images.shape} and {label_file} {labels.shape} are not images of 28 x 28 px and labels "
            "0 to 9: put Fashion-MNIST's files there, or name their folder in db_root_dir.fashion-mnist=..."
        )
    padded = F.pad(torch.from_numpy(images)[:, None], (2, 2, 2, 2))  # (N, 1, 32, 32)
    targets = torch.from_numpy(labels).long()
    return ResidentDataset(padded.expand(-1, 3, -1, -1).contiguous(), targets, list(FashionMNIST.classes))


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in an idx file, gzipped or not. Raises UserError for a file damaged or of another kind."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = bytearray(file.read())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}): remove it, and it will be downloaded anew") from error
    start = 4 + 4 * content[3] if len(content) >= 4 and content[:3] == b"\0\0\x08" else None  # 0x08: unsigned bytes
    shape = np.frombuffer(content[4:start], ">u4") if start and len(content) >= start else None
    if shape is None or math.prod(shape.tolist()) != len(content) - start:
        raise UserError(
            f"{path} ({len(content)} bytes) is no whole idx file of bytes: remove it, and it will be downloaded anew"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _find(place: Path, name: str) -> Path | None:
    return next((path for path in (place / name, place / f"{name}.gz") if path.is_file()), None)


def _download(folder: Path, names: list[str]) -> list[Path]:
    """Fetch the gzipped files with torchvision's addresses and checksums; a file stands in `folder` only when whole."""
    checksums = dict(FashionMNIST.resources)
    files = [f"{name}.gz" for name in names]
    place = f"{folder.absolute()}, its FashionMNIST/raw or {DEBIAN}"
    by_hand = f"put {', '.join(checksums)} into {folder.absolute()} (on Debian: apt-get install dataset-fashion-mnist)"
    with downloading("fashion-mnist", place, FashionMNIST.mirrors[0], by_hand):
        for file in files:
            download_url(FashionMNIST.mirrors[0] + file, folder, f"{file}.part", checksums[file])
            (folder / f"{file}.part").replace(folder / file)
    return [folder / file for file in files]
