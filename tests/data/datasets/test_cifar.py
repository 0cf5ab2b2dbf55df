import numpy as np
import pytest
import torch
from easydict import EasyDict

from data import build_dataset
from tests.official_files import CIFAR10_NAMES, COARSE_NAMES, write_cifar10, write_cifar100

WRITERS = {"cifar-10": (write_cifar10, CIFAR10_NAMES), "cifar-20": (write_cifar100, COARSE_NAMES)}


@pytest.fixture(params=WRITERS)
def name(request):
    return request.param


@pytest.fixture
def written(name, tmp_path, monkeypatch):
    return WRITERS[name][0](tmp_path, monkeypatch, train=23, val=6)


def build(name, folder, split, **more):
    cfg = EasyDict(train_db_name=name, val_db_name=name, db_root_dir={name: str(folder)}, **more)
    return build_dataset(cfg, split)


@pytest.mark.parametrize("split, size", [("train", 23), ("val", 6)])
def test_a_row_of_the_file_is_three_planes_row_by_row_with_its_own_or_its_coarse_label(
    split, size, name, written, tmp_path
):
    dataset = build(name, tmp_path, split)
    assert dataset.images.dtype == torch.uint8 and dataset.images.shape == (size, 3, 32, 32)
    for image, row in zip(dataset.images, written[split]["data"], strict=True):
        for channel, y, x in [(0, 0, 0), (0, 0, 31), (0, 31, 0), (1, 5, 9), (2, 31, 31)]:
            assert image[channel, y, x] == row[1024 * channel + 32 * y + x]
    pixel = np.asarray(dataset.get_image(4))[3, 7]
    assert np.array_equal(pixel, written[split]["data"][4][[103, 1127, 2151]])
    assert dataset.targets.dtype == torch.int64 and dataset.classes == WRITERS[name][1]
    assert dataset.targets.tolist() == written[split]["labels"].tolist()


def test_max_images_are_spaced_evenly_over_the_train_split_and_val_stays_whole(name, written, tmp_path):
    few, whole = build(name, tmp_path, "train", max_images=5), build(name, tmp_path, "train", max_images=24)
    chosen = [0, 4, 9, 13, 18]  # 23 i / 5, rounded down
    assert torch.equal(few.images, whole.images[chosen]) and torch.equal(few.targets, whole.targets[chosen])
    assert len(whole) == 23 and len(build(name, tmp_path, "val", max_images=5)) == 6
