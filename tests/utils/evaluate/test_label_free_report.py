"""Which neighbors clusters are judged by without labels, and the figures."""

import math

import pytest
import torch

from data.dataset import ResidentDataset
from utils.evaluate.label_free_report import judge_without_labels, nearest, neighbors_to_judge
from utils.neighbors.search import neighbors_to_bytes
from utils.stages import NEIGHBORS
from utils.storage.files import save_with_manifest

ANGLES = torch.tensor([0.0, 10, 25, 180, 190, 205]).deg2rad()
FEATURES = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1) * torch.tensor([[1.0], [9], [2], [5], [1], [3]])
DATASET = ResidentDataset(torch.arange(18, dtype=torch.uint8).view(6, 3, 1, 1), None, [])
MINED = torch.tensor([[0, 3], [1, 3], [2, 3], [3, 0], [4, 0], [5, 0]])  # as no feature here would have it


def keep(folder, fingerprint=DATASET.fingerprint, neighbors=MINED):
    content = neighbors_to_bytes(neighbors)
    save_with_manifest(folder / NEIGHBORS["val"], content, {"images_sha256": fingerprint})


def judge(folder, probabilities, features=FEATURES, **more):
    return judge_without_labels(probabilities, features, DATASET, str(folder), "torch", **more)


def test_the_nearest_are_those_of_the_smallest_angle_as_many_as_there_are():
    assert nearest(FEATURES, 1, "torch").tolist() == [[0, 1], [1, 0], [2, 1], [3, 4], [4, 3], [5, 4]]
    assert nearest(FEATURES, 20, "torch").shape == (6, 6)
    assert nearest(FEATURES[:1], 20, "torch").tolist() == [[0]]


def test_neighbors_of_the_pretext_task_judge_the_images_that_they_were_mined_from(tmp_path):
    keep(tmp_path)
    assert torch.equal(neighbors_to_judge(DATASET, FEATURES, str(tmp_path), "torch"), MINED)


@pytest.mark.parametrize("fault", ["other images", "damaged", "missing", "another number"])
def test_otherwise_the_nearest_by_the_features_do(fault, tmp_path):
    if fault == "other images":
        keep(tmp_path, "0" * 64)
    if fault == "another number":
        keep(tmp_path, neighbors=MINED[:5])
    if fault == "damaged":
        keep(tmp_path)
        (tmp_path / NEIGHBORS["val"]).write_bytes(b"x")
    found = neighbors_to_judge(DATASET, FEATURES, str(tmp_path), "torch")
    assert torch.equal(found, nearest(FEATURES, 5, "torch"))


def test_the_figures_by_hand(tmp_path):
    keep(tmp_path)
    probabilities = torch.tensor([[0.75, 0.25]] * 3 + [[0.05, 0.95]] * 3)
    found = judge(tmp_path, probabilities)
    own = -(3 * math.log(0.75**2 + 0.25**2) + 3 * math.log(0.05**2 + 0.95**2)) / 12  # each image with itself,
    pairs = -math.log(0.75 * 0.05 + 0.25 * 0.95) / 2  # and with its neighbor, of the other cluster
    entropy = -(0.4 * math.log(0.4) + 0.6 * math.log(0.6))
    assert found["consistency"] == pytest.approx(own + pairs, abs=1e-6)
    assert found["entropy"] == pytest.approx(entropy, abs=1e-6)
    assert found["neighbor_agreement"] == 0 and found["sizes"] == [3, 3]
    assert found["confidence_histogram"] == [0, 0, 0, 0, 0, 0, 0, 3, 0, 3]
    assert found["silhouette"] > 0.8  # the two clusters lie opposite each other


def test_a_prior_counts_in_the_entropy(tmp_path):
    keep(tmp_path)
    probabilities = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 3)
    found = judge(tmp_path, probabilities, cluster_prior=[3, 1])
    expected = (
        math.log(2) + 0.5 * math.log(2 * 0.75) + 0.5 * math.log(2 * 0.25)
    )  # of [.5, .5] under [.75, .25]
    assert found["entropy"] == pytest.approx(expected, abs=1e-6)


def test_zero_norm_features_leave_out_what_needs_neighbors_and_the_console_says_so(tmp_path, capsys):
    found = judge(tmp_path, torch.eye(2).repeat(3, 1), torch.zeros(6, 2))
    assert "neighbor_agreement" not in found and "consistency" not in found and found["sizes"] == [3, 3]
    assert "6 of 6 features" in capsys.readouterr().out
