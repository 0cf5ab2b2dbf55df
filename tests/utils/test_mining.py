"""What mining writes and says; how neighbors are found is for test_neighbors.py and test_knn_index.py."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from models import build_model
from models.heads import feature_layer
from tests.small_runs import few_digits, run_stage
from utils import mining
from utils.config import load_config
from utils.errors import UserError
from utils.mining import check_before_training, feature_size, mine

TRAIN, VAL, CLASSES = 120, 30, 3
pytestmark = pytest.mark.usefixtures("no_pictures")


class RecordedRun:
    """A run of which nothing is written: what it was told."""

    def __init__(self, cfg):
        self.cfg, self.device, self.folder = cfg, torch.device("cpu"), Path("of no picture")
        self.neighbors, self.notes, self.finals, self.log = {}, [], {}, self

    def save_neighbors(self, split, neighbors):
        self.neighbors[split] = neighbors

    def note(self, text):
        self.notes.append(text)

    def final(self, title, metrics):
        self.finals[title] = metrics


class Split:
    """Labels alone: no picture is drawn here."""

    classes = tuple("abc"[:CLASSES])
    is_labelled = True

    def __init__(self, count):
        self.targets = torch.arange(count) % CLASSES

    def __len__(self):
        return len(self.targets)


def mined(**settings):
    """The run after mining features that point, but for some noise, to their class."""
    cfg = {"num_neighbors": 10, "knn_backend": "auto", "knn_index": "Flat", "seed": 0}
    run, splits = RecordedRun(SimpleNamespace(**cfg | settings)), {"train": Split(TRAIN), "val": Split(VAL)}
    noise = torch.Generator().manual_seed(0)
    features = {
        name: F.normalize(
            torch.eye(8)[split.targets] + 0.1 * torch.randn(len(split), 8, generator=noise), dim=1
        )
        for name, split in splits.items()
    }
    mine(run, features, splits["train"], splits["val"])
    return run


def test_the_train_split_is_mined_with_the_index_and_the_val_split_always_exactly(monkeypatch):
    pytest.importorskip("faiss")
    asked, search = [], mining.mine_neighbors

    def watched(features, topk, backend, index):
        asked.append((len(features), topk, backend, index))
        return search(features, topk, backend, index)

    monkeypatch.setattr(mining, "mine_neighbors", watched)
    run = mined(knn_index="IVF8,Flat")
    assert asked == [(TRAIN, 10, "faiss", "IVF8,Flat"), (VAL, 5, "faiss", "Flat")]
    assert run.neighbors["train"].shape == (TRAIN, 11) and run.neighbors["val"].shape == (VAL, 6)


def test_the_log_says_how_many_of_the_exact_neighbors_an_index_found(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(mining, "RECALL_SAMPLE", 100)
    monkeypatch.setattr(mining, "recall", lambda neighbors, features, sample: 0.98749)
    assert (
        "knn_index IVF8,Flat found 98.7 % of the exact 10 nearest neighbors of 100 images"
        in mined(knn_index="IVF8,Flat").notes
    )


def test_with_all_lists_searched_all_the_exact_neighbors_are_found():
    pytest.importorskip("faiss")
    run = mined(knn_index="IVF8,Flat")  # at least 8 lists are searched
    assert (
        f"knn_index IVF8,Flat found 100.0 % of the exact 10 nearest neighbors of {TRAIN} images" in run.notes
    )


def test_flat_is_exact_and_no_share_of_it_is_told():
    assert not [note for note in mined().notes if "knn_index" in note]


def test_k_means_is_left_out_where_it_takes_long_and_the_log_says_so(monkeypatch):
    title, size = "pretext features, accuracy on the val split", TRAIN * 8 * CLASSES
    monkeypatch.setattr(mining, "KMEANS_LIMIT", size)
    assert mined().finals[title].keys() == {"weighted kNN", "k-means"}
    monkeypatch.setattr(mining, "KMEANS_LIMIT", size - 1)
    run = mined()
    assert run.finals[title].keys() == {"weighted kNN"}
    assert [
        note
        for note in run.notes
        if "k-means left out" in note and "120 features of size 8, 3 classes" in note
    ]


def test_imagenet_50_has_its_k_means_and_imagenet_100_has_none():
    assert 50 * 1300 * 2048 * 50 < mining.KMEANS_LIMIT < 100 * 732 * 2048 * 100  # 732 to 1,300 images a class


# -- before training


def small_config(**settings):
    """The digits' config with a narrow network."""
    return load_config(
        None, "configs/pretext/simclr_digits.yml", [f"{key}={value}" for key, value in settings.items()]
    )


@pytest.mark.parametrize("layer", ["head", "backbone"])
@pytest.mark.parametrize(
    "network",
    [
        {"model_kwargs.width": 4},
        {"model_kwargs.width": 64},
        {"model_kwargs.width": 64, "backbone": "resnet50"},
    ],
)
def test_the_size_of_the_features_is_known_before_there_is_a_model(network, layer):
    cfg = small_config(feature_layer=layer, **network)
    with torch.device("meta"):
        model = feature_layer(build_model(cfg), layer).eval()
        assert model(torch.empty(1, 3, 16, 16)).shape == (1, feature_size(cfg))


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"knn_index": "IVF207,Flat"}, "207 lists for 206 images"),
        ({"knn_index": "PQ5"}, "multiple"),  # the head's 128 numbers
        ({"knn_index": "PQ64", "feature_layer": "backbone", "model_kwargs.width": 4}, "multiple"),  # of 32
        ({"knn_index": "IFV16,Flat"}, "could not parse index string IFV16,Flat"),
        ({"knn_index": "HNSW32", "knn_backend": "torch"}, "needs faiss"),
    ],
)
def test_an_index_that_does_not_serve_is_known_before_training(settings, reason):
    pytest.importorskip("faiss")
    check_before_training(small_config(knn_index="PQ64"), range(206), range(52))
    check_before_training(
        small_config(knn_index="IVF206,Flat"), range(206), range(52)
    )  # val has fewer, and is Flat
    with pytest.raises(UserError, match=f"knn_index '{settings['knn_index']}' .*{reason}"):
        check_before_training(small_config(**settings), range(206), range(52))


def test_a_whole_pretext_run_takes_an_index(monkeypatch, tmp_path):
    pytest.importorskip("faiss")
    few_digits(monkeypatch)
    folder = run_stage("pretext", tmp_path, "knn_index=HNSW16", epochs=1)
    notes = [json.loads(line).get("note", "") for line in (folder / "log.jsonl").read_text().splitlines()]
    assert any(
        note.startswith("knn_index HNSW16 found ") and note.endswith("of 206 images") for note in notes
    )
    assert "mined the 20 nearest neighbors of 206 train images with faiss" in notes
