import gzip
import struct

import numpy as np
import pytest
import torch

from data.datasets import fashion_mnist
from tests.official_files import build, offer_fashion_mnist, write_fashion_mnist
from utils.errors import UserError


@pytest.fixture(autouse=True)
def debian(tmp_path, monkeypatch):
    """Stands in for the folder of Debian's package: empty, whatever this machine has installed."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(fashion_mnist, "URL", "file:///no/such/mirror/")
    return tmp_path / "debian"


def read(folder, split="train"):
    return build("fashion-mnist", folder, split)


@pytest.mark.parametrize("place", ["own", "own/FashionMNIST/raw", "debian"])
@pytest.mark.parametrize("zipped", [True, False], ids=["gzipped", "plain"])
def test_files_are_found_where_users_torchvision_and_debian_put_them(zipped, place, tmp_path):
    written = write_fashion_mnist(tmp_path / place, None, train=9, val=4, zipped=zipped)
    for split, size in (("train", 9), ("val", 4)):
        dataset = read(tmp_path / "own", split)
        assert len(dataset) == size and dataset.targets.dtype == torch.int64
        assert len(dataset.classes) == 10 and dataset.classes[::9] == ["T-shirt/top", "Ankle boot"]
        assert dataset.targets.tolist() == written[split]["labels"].tolist()


def test_the_folder_of_the_config_comes_before_that_of_the_package(tmp_path, debian):
    write_fashion_mnist(debian, None, train=9, val=4)
    write_fashion_mnist(tmp_path / "own", None, train=8, val=4)
    assert len(read(tmp_path / "own")) == 8


def test_a_28_px_image_has_a_black_border_of_2_px_and_three_equal_channels(tmp_path):
    written = write_fashion_mnist(tmp_path / "own", None, train=9, val=4)
    images = read(tmp_path / "own").images
    assert images.dtype == torch.uint8 and images.shape == (9, 3, 32, 32)
    for image, row in zip(images, written["train"]["data"], strict=True):
        for channel in image:
            assert channel[2:30, 2:30].flatten().tolist() == row.tolist()
            assert channel.long().sum() == row.sum()  # all else is black


def test_only_whole_files_are_downloaded_and_only_once(tmp_path, monkeypatch, capsys, address):
    written = write_fashion_mnist(tmp_path / "server", None, train=9, val=4)
    offer_fashion_mnist(tmp_path / "server", address, monkeypatch)
    image_file = tmp_path / "server" / "t10k-images-idx3-ubyte.gz"
    whole = image_file.read_bytes()
    image_file.write_bytes(whole[:100])  # the connection breaks
    with pytest.raises(UserError):
        read(tmp_path / "own", "val")
    assert list((tmp_path / "own").iterdir()) == []
    image_file.write_bytes(whole)
    for printed in (True, False):
        assert read(tmp_path / "own", "val").targets.tolist() == written["val"]["labels"].tolist()
        assert (address in capsys.readouterr().out) == printed
    files = ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == files


def test_a_failed_download_names_the_address_the_folder_and_the_ways_by_hand(tmp_path):
    with pytest.raises(UserError) as error:
        read(tmp_path / "own")
    remedies = ("dataset-fashion-mnist", "db_root_dir.fashion-mnist=", "SCAN_FASHION_MNIST_DIR")
    for part in (f"{tmp_path}/own/train-images-idx3-ubyte.gz", "file:///no/such/mirror/", *remedies):
        assert part in str(error.value)


def idx(values):
    header = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}i", *values.shape)
    return header + values.astype(np.uint8).tobytes()


IMAGES, LABELS = idx(np.zeros((9, 28, 28))), idx(np.arange(9))
ZIPPED = gzip.compress(IMAGES)
DAMAGED = {  # the suffix of the image file, the image file, the label file
    "cut short": ("", IMAGES[:-1], LABELS),
    "empty": ("", b"", LABELS),
    "cut zip": (".gz", ZIPPED[:-9], LABELS),
    "garbled zip": (".gz", ZIPPED[:12] + b"\xff" * 9, LABELS),
    "not zipped": (".gz", IMAGES, LABELS),
    "labels of another number": ("", IMAGES, LABELS[:-5]),
    "images of another size": ("", idx(np.zeros((9, 20, 20))), LABELS),
    "labels beyond the ten classes": ("", IMAGES, idx(np.full(9, 10))),
    "labels in the images' place": ("", LABELS, LABELS),
}


@pytest.mark.parametrize("suffix, images, labels", DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_and_those_of_another_data_set_are_refused(suffix, images, labels, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / f"train-images-idx3-ubyte{suffix}").write_bytes(images)
    (tmp_path / "own" / "train-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(UserError, match=r"train-images.*db_root_dir\.fashion-mnist="):
        read(tmp_path / "own")
