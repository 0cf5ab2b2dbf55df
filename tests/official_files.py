"""Writes small data sets in the file formats of the official ones, and tells torchvision their checksums."""

import gzip
import hashlib
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
from easydict import EasyDict
from torchvision.datasets import CIFAR10, CIFAR100, STL10

from data import build_dataset
from data.datasets import fashion_mnist

CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
COARSE_NAMES = [f"superclass {number:02d}" for number in range(20)]


def build(name: str, folder: Path, split: str = "train", **more):
    """The data set whose files are in `folder`."""
    cfg = EasyDict(train_db_name=name, val_db_name=name, db_root_dir={name: str(folder)}, **more)
    return build_dataset(cfg, split)


def write_cifar10(folder: Path, monkeypatch, train: int, val: int) -> dict[str, dict]:
    """Five batches that share `train` images and a test batch. Returns what was written for `train`, `val`:
    pixels (N, 3072), red, green and blue planes row by row, and labels (N,)."""
    names = {"label_names": CIFAR10_NAMES}
    return _write_cifar(CIFAR10, folder, monkeypatch, {"train": train, "val": val}, "labels", names)


def write_cifar100(folder: Path, monkeypatch, train: int, val: int) -> dict[str, dict]:
    """As `write_cifar10`; `labels` are the coarse ones, of 20 classes, and all fine labels are 0."""
    names = {"fine_label_names": ["apple"] * 100, "coarse_label_names": COARSE_NAMES}
    return _write_cifar(CIFAR100, folder, monkeypatch, {"train": train, "val": val}, "coarse_labels", names)


def _write_cifar(reader, folder: Path, monkeypatch, sizes: dict, key: str, names: dict) -> dict[str, dict]:
    rng, place, written = np.random.default_rng(0), folder / reader.base_folder, {}
    place.mkdir(parents=True)
    for split, files in (("train", reader.train_list), ("val", reader.test_list)):
        written[split] = _pixels_and_labels(rng, sizes[split], 3072, len(list(names.values())[-1]))
        data, labels = written[split].values()
        for (file, _), rows in zip(files, np.array_split(np.arange(len(labels)), len(files)), strict=True):
            content = {"data": data[rows], "fine_labels": [0] * len(rows), key: labels[rows].tolist()}
            (place / file).write_bytes(pickle.dumps(content, protocol=2))
    (place / reader.meta["filename"]).write_bytes(pickle.dumps(names, protocol=2))
    _tell_checksums(monkeypatch, reader, place)
    return written


def write_stl10(folder: Path, monkeypatch, train: int, val: int, unlabeled: int = 3) -> dict[str, dict]:
    """pixels (N, 27648): red, green and blue planes COLUMN by column; labels 1 to 10, as in the files."""
    rng, place = np.random.default_rng(2), folder / "stl10_binary"
    place.mkdir(parents=True)
    written = {}
    for split, size in {"train": train, "val": val, "unlabeled": unlabeled}.items():
        file = "test" if split == "val" else split
        content = written[split] = _pixels_and_labels(rng, size, 27648, 10)
        content["labels"] += 1
        content["data"].tofile(place / f"{file}_X.bin")
        if split != "unlabeled":
            content["labels"].astype(np.uint8).tofile(place / f"{file}_y.bin")
    _tell_checksums(monkeypatch, STL10, place)
    return written


def write_fashion_mnist(folder: Path, monkeypatch, train: int, val: int, zipped=True) -> dict[str, dict]:
    """pixels (N, 784) row by row, labels (N,), as idx files: big-endian magic number and sizes, then bytes.
    `monkeypatch` is for writers of one signature: our own reader needs no checksums."""
    rng, written = np.random.default_rng(3), {}
    folder.mkdir(parents=True, exist_ok=True)
    for split, prefix, size in (("train", "train", train), ("val", "t10k", val)):
        written[split] = _pixels_and_labels(rng, size, 784, 10)
        images = struct.pack(">4i", 0x803, size, 28, 28) + written[split]["data"].tobytes()
        labels = struct.pack(">2i", 0x801, size) + written[split]["labels"].astype(np.uint8).tobytes()
        for name, content in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{prefix}-{name}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(content, mtime=0) if zipped else content)
    return written


def offer_archive(reader, folder: Path, address: str, monkeypatch) -> Path:
    """Pack `folder`, and make torchvision's `reader` download that archive from `address`."""
    archive = folder / reader.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / reader.base_folder, reader.base_folder)
    monkeypatch.setattr(reader, "url", address + archive.name)
    monkeypatch.setattr(reader, "tgz_md5", md5(archive))
    return archive


def offer_fashion_mnist(folder: Path, address: str, monkeypatch) -> None:
    """Make our reader download the gzipped files in `folder` from `address`."""
    monkeypatch.setattr(fashion_mnist, "URL", address)
    for name in fashion_mnist.FILES:
        digest = hashlib.sha256((folder / f"{name}.gz").read_bytes()).hexdigest()
        monkeypatch.setitem(fashion_mnist.FILES, name, digest)


def _pixels_and_labels(rng, size: int, values: int, classes: int) -> dict:
    """Noise around a shade of each image's own, so that images differ as images do."""
    shade = rng.integers(40, 216, (size, 1))
    data = (shade + rng.integers(-40, 40, (size, values))).astype(np.uint8)
    return {"data": data, "labels": np.arange(size) * 7 % classes}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def _tell_checksums(monkeypatch, reader, place: Path) -> None:
    for files in ("train_list", "test_list"):
        monkeypatch.setattr(reader, files, [[name, md5(place / name)] for name, _ in getattr(reader, files)])
    if hasattr(reader, "meta"):
        monkeypatch.setattr(reader, "meta", reader.meta | {"md5": md5(place / reader.meta["filename"])})
