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


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar10(folder: Path, monkeypatch, train: int, val: int) -> dict[str, dict]:
    """Five batches that share `train` images and a test batch. Returns what was written for `train`, `val`:
    pixels (N, 3072), red, green and blue planes row by row, and labels (N,)."""
    rng, place = np.random.default_rng(0), folder / "cifar-10-batches-py"
    place.mkdir(parents=True)
    sizes = {"train": train, "val": val}
    written = {split: _pixels_and_labels(rng, size, 3072, 10) for split, size in sizes.items()}
    for number, rows in enumerate(np.array_split(np.arange(train), 5), start=1):
        batch = {key: values[rows] for key, values in written["train"].items()}
        _pickle(place / f"data_batch_{number}", batch | {"labels": batch["labels"].tolist()})
    _pickle(place / "test_batch", written["val"] | {"labels": written["val"]["labels"].tolist()})
    _pickle(place / "batches.meta", {"label_names": CIFAR10_NAMES, "num_vis": 3072})
    _tell_checksums(monkeypatch, CIFAR10, place)
    return written


def write_cifar100(folder: Path, monkeypatch, train: int, val: int) -> dict[str, dict]:
    """As `write_cifar10`, with fine labels of 100 classes and, in `labels`, unrelated coarse ones of 20."""
    rng, place = np.random.default_rng(1), folder / "cifar-100-python"
    place.mkdir(parents=True)
    written = {}
    for split, file, size in (("train", "train", train), ("val", "test", val)):
        content = written[split] = _pixels_and_labels(rng, size, 3072, 20)
        fine, coarse = rng.integers(0, 100, size).tolist(), content["labels"].tolist()
        _pickle(place / file, {"data": content["data"], "fine_labels": fine, "coarse_labels": coarse})
    fine_names = [f"class {number:02d}" for number in range(100)]
    _pickle(place / "meta", {"fine_label_names": fine_names, "coarse_label_names": COARSE_NAMES})
    _tell_checksums(monkeypatch, CIFAR100, place)
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


def _pickle(path: Path, content: dict) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def _tell_checksums(monkeypatch, reader, place: Path) -> None:
    for files in ("train_list", "test_list"):
        monkeypatch.setattr(reader, files, [[name, md5(place / name)] for name, _ in getattr(reader, files)])
    if hasattr(reader, "meta"):
        monkeypatch.setattr(reader, "meta", reader.meta | {"md5": md5(place / reader.meta["filename"])})
