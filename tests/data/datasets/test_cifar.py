import numpy as np
import pytest
import torch
from easydict import EasyDict

from data import build_dataset
from tests.official_files import CIFAR10_NAMES, COARSE_NAMES, write_cifar10, write_cifar100


def config(name, folder, **more):
    return EasyDict(train_db_name=name, val_db_name=name, db_root_dir={name: str(folder)}, **more)


@pytest.fixture(params=["cifar-10", "cifar-20"])
def name(request):
    return request.param


@pytest.fixture
def written(name, tmp_path, monkeypatch):
    writer = {"cifar-10": write_cifar10, "cifar-20": write_cifar100}[name]
    return writer(tmp_path, monkeypatch, train=23, val=6)


@pytest.mark.parametrize("split, size", [("train", 23), ("val", 6)])
def test_a_row_of_the_file_is_three_planes_row_by_row_and_the_batches_follow_each_other(
    split, size, name, written, tmp_path
):
    dataset = build_dataset(config(name, tmp_path), split)
    assert dataset.images.dtype == torch.uint8 and dataset.images.shape == (size, 3, 32, 32)
    for image, row in zip(dataset.images, written[split]["data"], strict=True):
        for channel, y, x in [(0, 0, 0), (0, 0, 31), (0, 31, 0), (1, 5, 9), (2, 31, 31)]:
            assert image[channel, y, x] == row[1024 * channel + 32 * y + x]
    assert np.array_equal(np.asarray(dataset.get_image(4))[3, 7], written[split]["data"][4][[103, 1127, 2151]])


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_are_those_of_the_file_for_cifar_100_its_own_coarse_ones(split, name, written, tmp_path):
    dataset = build_dataset(config(name, tmp_path), split)
    assert dataset.targets.dtype == torch.int64
    assert dataset.targets.tolist() == written[split]["labels"].tolist()
    assert dataset.classes == {"cifar-10": CIFAR10_NAMES, "cifar-20": COARSE_NAMES}[name]


def test_max_images_are_spaced_evenly_over_the_train_split_and_val_stays_whole(name, written, tmp_path):
    train, val = (build_dataset(config(name, tmp_path, max_images=5), split) for split in ("train", "val"))
    whole = build_dataset(config(name, tmp_path), "train")
    chosen = [0, 4, 9, 13, 18]  # 23 i / 5, rounded down
    assert torch.equal(train.images, whole.images[chosen]) and torch.equal(train.targets, whole.targets[chosen])
    assert len(val) == 6


def test_max_images_above_what_there_is_takes_all(name, written, tmp_path):
    assert len(build_dataset(config(name, tmp_path, max_images=24), "train")) == 23
