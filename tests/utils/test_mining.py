"""What mining writes and reports; how neighbors are found is tested in tests/utils/neighbors."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from utils import mining
from utils.errors import UserError
from utils.mining import check_before_training, comparable_targets, knn_accuracy, mine
from utils.neighbors import search
from utils.neighbors.faiss_index import import_faiss

needs_faiss = pytest.mark.skipif(import_faiss() is None, reason="faiss is not installed")
TRAIN, VAL, CLASSES = 120, 30, 3
CPU = torch.device("cpu")
BASELINES = "pretext features, accuracy on the val split"
pytestmark = pytest.mark.usefixtures("no_pictures")


class Split:
    """Labels alone: no picture is drawn here."""

    classes, is_labelled = tuple("abc"[:CLASSES]), True

    def __init__(self, count):
        self.targets = torch.arange(count) % CLASSES

    def __len__(self):
        return len(self.targets)


def features_and_splits():
    """Features that point, but for some noise, to their class."""
    splits, noise = {"train": Split(TRAIN), "val": Split(VAL)}, torch.Generator().manual_seed(0)
    points = {name: torch.eye(8)[split.targets] for name, split in splits.items()}
    noisy = {name: each + 0.1 * torch.randn(each.shape, generator=noise) for name, each in points.items()}
    return {name: F.normalize(each, dim=1) for name, each in noisy.items()}, splits


def mined(**settings):
    """What mining notes, reports and writes: nothing is written to disk."""
    cfg = {"num_neighbors": 10, "knn_backend": "auto", "knn_index": "Flat", "seed": 0} | settings
    notes, finals, shapes = [], {}, {}

    def save_neighbors(split, content, topk):
        shapes[split] = np.load(io.BytesIO(content)).shape, topk

    log = SimpleNamespace(note=notes.append, final=finals.__setitem__)
    folder = SimpleNamespace(save_neighbors=save_neighbors)
    run = SimpleNamespace(cfg=SimpleNamespace(**cfg), device=CPU, path=Path(), log=log, folder=folder)
    features, splits = features_and_splits()
    mine(run, features, splits["train"], splits["val"])
    return SimpleNamespace(notes=notes, finals=finals, shapes=shapes)


@needs_faiss
def test_the_train_split_is_mined_with_the_index_and_the_val_split_always_exactly(monkeypatch):
    asked, find = [], mining.mine_neighbors

    def watched(features, *how):
        asked.append((len(features), *how))
        return find(features, *how)

    monkeypatch.setattr(mining, "mine_neighbors", watched)
    run = mined(knn_index="IVF8,Flat")
    assert asked == [(TRAIN, 10, "faiss", "IVF8,Flat", CPU), (VAL, 5, "faiss", "Flat", CPU)]
    assert run.shapes == {"train": ((TRAIN, 11), 10), "val": ((VAL, 6), 5)}


@needs_faiss
@pytest.mark.parametrize("found, told", [(0.98749, "98.7%"), (1.0, "100.0%")])
def test_the_log_tells_how_many_of_the_exact_neighbors_an_index_found(found, told, monkeypatch):
    monkeypatch.setattr(mining, "RECALL_SAMPLE", 100)
    monkeypatch.setattr(
        search, "recall", lambda neighbors, features, sample, device: found if sample == 100 else 0
    )
    (note,) = [note for note in mined(knn_index="IVF8,Flat").notes if "IVF8,Flat" in note]
    assert told in note and "100 images" in note


def test_where_labels_are_known_the_right_neighbors_and_the_accuracy_of_both_baselines_are_told():
    run = mined()
    assert run.finals == {
        "neighbors of the train split": {"right among the top 10": 1},
        "neighbors of the val split": {"right among the top 5": 1},
        BASELINES: {"weighted kNN": 1, "k-means": 1},
    }
    assert not [note for note in run.notes if "%" in note]  # Flat finds all


def test_knn_accuracy_is_of_the_labelled_val_images_only():
    features, splits = features_and_splits()
    splits["val"].targets[:10] = -1
    splits["val"].targets[10:15] = (splits["val"].targets[10:15] + 1) % CLASSES  # 5 wrong ones of 20
    assert knn_accuracy(features, splits["train"], splits["val"], CPU) == 0.75


def renumbered(splits, names):
    """The val split with the same classes by name, in this order."""
    splits["val"].classes = names
    old = splits["val"].targets
    splits["val"].targets = torch.tensor([names.index("abc"[target]) for target in old])


def test_classes_are_compared_by_name_whatever_their_numbers():
    features, splits = features_and_splits()
    expected = knn_accuracy(features, splits["train"], splits["val"], CPU)
    renumbered(splits, ["c", "d", "a", "b"])  # no val image is of class d
    splits["val"].targets[0] = -1
    targets = comparable_targets(splits["train"], splits["val"])
    assert targets.tolist() == [-1, *(number % 3 for number in range(1, VAL))]
    assert knn_accuracy(features, splits["train"], splits["val"], CPU) == expected == 1


@pytest.mark.parametrize("train, val", [("abc", "abd"), ("abc", "xyz"), ("aab", "abc"), ("012", "cat")])
def test_classes_that_are_not_those_of_the_train_split_are_not_compared(train, val, monkeypatch):
    features, splits = features_and_splits()
    splits["train"].classes, splits["val"].classes = list(train), list(val)
    assert comparable_targets(splits["train"], splits["val"]) is None
    monkeypatch.setattr("tests.utils.test_mining.features_and_splits", lambda: (features, splits))
    run = mined()
    assert run.finals[BASELINES].keys() == {"k-means"} and any("kNN" in note for note in run.notes)


@pytest.mark.parametrize(
    "settings, key",
    [
        ((20, 52, 20, "torch", "Flat"), "num_neighbors"),
        ((206, 5, 20, "torch", "Flat"), r"val.*folder\.val_share"),
        ((206, 52, 20, "auto", "IVF207,Flat"), "knn_index 'IVF207,Flat'.*206"),
        ((206, 52, 20, "torch", "HNSW32"), "knn_index 'HNSW32'.*knn_backend"),
    ],
)
def test_what_would_stop_the_mining_is_known_before_training(settings, key):
    check_before_training(206, 52, 20, "torch", "Flat")
    if import_faiss():
        check_before_training(206, 52, 20, "auto", "IVF206,Flat")  # of train: val may have fewer images
    with pytest.raises(UserError, match=key):
        check_before_training(*settings)
