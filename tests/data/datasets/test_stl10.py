import numpy as np
import pytest
import torch
from easydict import EasyDict

from data import build_dataset, with_unlabeled
from tests.official_files import build, write_stl10

SIZES = {"train": 11, "val": 4, "unlabeled": 6}


@pytest.fixture
def written(tmp_path, monkeypatch):
    return write_stl10(tmp_path, monkeypatch, **SIZES)


@pytest.mark.parametrize("split", SIZES)
def test_a_row_of_the_file_is_planes_column_by_column_and_labels_start_at_0(split, written, tmp_path):
    dataset, content = build("stl-10", tmp_path, split), written[split]
    right = content["data"].reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)  # image, channel, column, row
    assert dataset.images.dtype == torch.uint8 and np.array_equal(dataset.images, right)
    labels = [-1] * 6 if split == "unlabeled" else (content["labels"] - 1).tolist()
    assert dataset.targets.dtype == torch.int64 and dataset.targets.tolist() == labels
    assert dataset.classes[::9] == ["airplane", "truck"] and len(dataset.classes) == 10


def test_the_pretext_task_trains_on_the_unlabeled_images_after_the_train_split(written, tmp_path):
    cfg = EasyDict(train_db_name="stl-10", db_root_dir={"stl-10": str(tmp_path)})
    train, unlabeled = build_dataset(cfg, "train"), build_dataset(cfg, "unlabeled")
    pretext = with_unlabeled(cfg, train)
    assert torch.equal(pretext.images, torch.cat([train.images, unlabeled.images]))
    assert pretext.targets.tolist() == [*train.targets.tolist(), *[-1] * 6]
    few = EasyDict(cfg, max_images=3)
    pretext = with_unlabeled(few, build_dataset(few, "train"))
    assert torch.equal(pretext.images, torch.cat([train.images[[0, 3, 7]], unlabeled.images[[0, 2, 4]]]))
    assert with_unlabeled(EasyDict(train_db_name="digits"), train) is train
