"""What is said of clusters without labels: by which neighbors, and under which prior."""

import math

import pytest
import torch
from easydict import EasyDict

from data.dataset import ResidentDataset
from utils.files import save_recorded
from utils.judge import judge_without_labels, nearest, neighbors_to_judge
from utils.neighbors import neighbors_to_bytes

ANGLES = torch.tensor([0.0, 10.0, 90.0, 110.0, 230.0, 241.0, 350.5]).deg2rad()
FEATURES = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1) * torch.arange(1, 8)[:, None]  # of many lengths
PROBABILITIES = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8], [0.1, 0.9], [0.4, 0.6], [0.6, 0.4]])
KEPT = torch.tensor([[row, *((row + step) % 7 for step in range(1, 6))] for row in range(7)])
EVERY_FIGURE = {
    "consistency",
    "entropy",
    "total_loss",
    "neighbor_agreement",
    "silhouette",
    "sizes",
    "confidence_histogram",
}


@pytest.fixture
def cfg(tmp_path):
    return EasyDict(pretext_dir=str(tmp_path), knn_backend="torch", criterion_kwargs={"entropy_weight": 5.0})


def images(value=0, number=7):
    return ResidentDataset(torch.full((number, 3, 2, 2), value, dtype=torch.uint8), None, [])


def keep(folder, dataset):
    facts = {"images_sha256": dataset.fingerprint}
    save_recorded(folder / "topk-val-neighbors.npy", neighbors_to_bytes(KEPT), facts)


def test_the_nearest_are_those_of_the_smallest_angle_fewer_where_there_are_not_so_many():
    assert nearest(FEATURES, 1, "torch").tolist() == [[0, 6], [1, 0], [2, 3], [3, 2], [4, 5], [5, 4], [6, 0]]
    assert nearest(FEATURES, 10, "torch").shape == (7, 7) and nearest(FEATURES[:1], 10, "torch").tolist() == [[0]]


def test_neighbors_of_the_pretext_task_judge_where_it_mined_these_images_and_else_the_nearest_five(cfg, tmp_path):
    by_features = nearest(FEATURES, 5, "torch")
    assert not torch.equal(by_features, KEPT)
    assert torch.equal(neighbors_to_judge(cfg, images(), FEATURES), by_features)
    keep(tmp_path, images())
    assert torch.equal(neighbors_to_judge(cfg, images(), FEATURES), KEPT)
    assert torch.equal(neighbors_to_judge(cfg, images(1), FEATURES), by_features)
    (tmp_path / "topk-val-neighbors.npy").write_bytes(b"damaged")
    assert torch.equal(neighbors_to_judge(cfg, images(), FEATURES), by_features)


def test_every_figure_is_there_by_hand_where_it_is_short(cfg, tmp_path):
    keep(tmp_path, images())
    figures = judge_without_labels(cfg, images(), PROBABILITIES, FEATURES)
    assert figures.keys() == EVERY_FIGURE
    clusters = [0, 0, 1, 1, 1, 1, 0]
    same = [clusters[row] == clusters[(row + step) % 7] for row in range(7) for step in range(1, 6)]
    assert figures["neighbor_agreement"] == pytest.approx(sum(same) / 35)
    assert figures["sizes"] == [3, 4] and figures["confidence_histogram"] == [0, 0, 0, 0, 0, 0, 2, 1, 2, 2]


def test_the_entropy_is_that_under_the_prior_of_the_training(cfg):
    cfg.criterion_kwargs.cluster_prior = [3.0, 1.0]
    mean = PROBABILITIES.double().mean(dim=0).tolist()
    expected = math.log(2) - sum(p * math.log(p / q) for p, q in zip(mean, (0.75, 0.25), strict=True))
    assert judge_without_labels(cfg, images(), PROBABILITIES, FEATURES)["entropy"] == pytest.approx(expected, abs=1e-6)


def test_features_that_have_no_neighbors_leave_the_figures_that_need_none(cfg, capsys):
    figures = judge_without_labels(cfg, images(), PROBABILITIES, torch.zeros(7, 2))
    assert figures.keys() == EVERY_FIGURE - {"consistency", "entropy", "total_loss", "neighbor_agreement"}
    assert "no figures of neighbors: " in capsys.readouterr().out
