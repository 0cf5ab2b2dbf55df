import numpy as np
import pytest
import torch

from tests.official_files import CIFAR10_NAMES, COARSE_NAMES, build, write_cifar10, write_cifar100

WRITERS = {"cifar-10": (write_cifar10, CIFAR10_NAMES), "cifar-20": (write_cifar100, COARSE_NAMES)}


@pytest.mark.parametrize("name", WRITERS)
def test_a_row_of_the_file_is_three_planes_with_its_own_or_its_coarse_label(name, tmp_path, monkeypatch):
    write, classes = WRITERS[name]
    for split, content in write(tmp_path, monkeypatch, train=23, val=6).items():
        dataset = build(name, tmp_path, split)
        right = content["data"].reshape(-1, 3, 32, 32)  # image, channel, row, column
        assert dataset.images.dtype == torch.uint8 and np.array_equal(dataset.images, right)
        assert np.array_equal(np.asarray(dataset.get_image(4)), right[4].transpose(1, 2, 0))
        assert dataset.targets.dtype == torch.int64 and dataset.classes == classes
        assert dataset.targets.tolist() == content["labels"].tolist()


def test_max_images_are_spaced_evenly_over_the_train_split_and_val_stays_whole(tmp_path, monkeypatch):
    write_cifar10(tmp_path, monkeypatch, train=23, val=6)
    few, whole = (build("cifar-10", tmp_path, "train", max_images=number) for number in (5, 24))
    chosen = [0, 4, 9, 13, 18]  # 23 i / 5, rounded down
    assert torch.equal(few.images, whole.images[chosen]) and torch.equal(few.targets, whole.targets[chosen])
    assert len(whole) == 23 and len(build("cifar-10", tmp_path, "val", max_images=5)) == 6
