import numpy as np
import pytest
import torch
from easydict import EasyDict

from data import build_dataset, with_unlabeled
from tests.official_files import write_stl10

NAMES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


@pytest.fixture
def written(tmp_path, monkeypatch):
    return write_stl10(tmp_path, monkeypatch, train=11, val=4, unlabeled=6)


@pytest.fixture
def cfg(tmp_path):
    return EasyDict(train_db_name="stl-10", val_db_name="stl-10", db_root_dir={"stl-10": str(tmp_path)})


@pytest.mark.parametrize("split, size", [("train", 11), ("val", 4), ("unlabeled", 6)])
def test_a_row_of_the_file_is_three_planes_column_by_column(split, size, written, cfg):
    dataset = build_dataset(cfg, split)
    assert dataset.images.dtype == torch.uint8 and dataset.images.shape == (size, 3, 96, 96)
    for image, row in zip(dataset.images, written[split]["data"], strict=True):
        for channel, y, x in [(0, 0, 0), (0, 0, 95), (0, 95, 0), (1, 5, 9), (2, 95, 95)]:
            assert image[channel, y, x] == row[9216 * channel + 96 * x + y]
    first = np.asarray(dataset.get_image(0))
    assert np.array_equal(first[3, 7], written[split]["data"][0][[675, 9891, 19107]])  # row 3, column 7


def test_labels_1_to_10_become_0_to_9_and_unlabeled_images_have_minus_1(written, cfg):
    for split in ("train", "val"):
        dataset = build_dataset(cfg, split)
        assert dataset.targets.dtype == torch.int64 and dataset.classes == NAMES
        assert dataset.targets.tolist() == (written[split]["labels"] - 1).tolist()
    assert build_dataset(cfg, "unlabeled").targets.tolist() == [-1] * 6


def test_the_pretext_task_alone_trains_on_the_unlabeled_images_too_after_the_train_split(written, cfg):
    train = build_dataset(cfg, "train")
    pretext = with_unlabeled(cfg, train)
    assert len(train) == 11 and len(pretext) == 17
    assert torch.equal(pretext.images, torch.cat([train.images, build_dataset(cfg, "unlabeled").images]))
    assert pretext.targets.tolist() == [*train.targets.tolist(), *[-1] * 6]


def test_max_images_thins_the_train_split_and_the_unlabeled_images_alike(written, cfg):
    few = EasyDict(cfg, max_images=3)
    pretext = with_unlabeled(few, build_dataset(few, "train"))
    train, unlabeled = build_dataset(cfg, "train"), build_dataset(cfg, "unlabeled")
    assert torch.equal(pretext.images, torch.cat([train.images[[0, 3, 7]], unlabeled.images[[0, 2, 4]]]))


def test_other_data_sets_have_no_unlabeled_images_to_add():
    train = object()
    assert with_unlabeled(EasyDict(train_db_name="digits"), train) is train
