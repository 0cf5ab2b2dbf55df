"""Which neighbors clusters are judged by without labels, and the figures."""

import math

import pytest
import torch

from data.dataset import ResidentDataset
from utils.evaluate.label_free_report import judge_without_labels, nearest
from utils.stages import NEIGHBORS
from utils.storage.arrays import to_npy
from utils.storage.files import save_with_manifest

ANGLES = torch.tensor([0.0, 10, 25, 180, 190, 205]).deg2rad()
FEATURES = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1) * torch.tensor([[1.0], [9], [2], [5], [1], [3]])
DATASET = ResidentDataset(torch.arange(18, dtype=torch.uint8).view(6, 3, 1, 1), None, [])
MINED = torch.tensor([[0, 3], [1, 3], [2, 3], [3, 0], [4, 0], [5, 0]])  # as no feature here would have it


@pytest.fixture
def judge(tmp_path):
    """Judges by a pretext folder whose neighbors were mined from images of this fingerprint."""

    def judged(probabilities, features=FEATURES, images=DATASET.fingerprint, content=None, prior=None):
        path = tmp_path / NEIGHBORS["val"]
        if images:
            save_with_manifest(path, to_npy(MINED), {"images_sha256": images})
        if content:
            path.write_bytes(content)
        return judge_without_labels(probabilities, features, DATASET, str(tmp_path), "torch", prior)

    return judged


@pytest.mark.parametrize(
    "number, topk, expected",
    [
        (6, 1, [[0, 1], [1, 0], [2, 1], [3, 4], [4, 3], [5, 4]]),
        (3, 20, [[0, 1, 2], [1, 0, 2], [2, 1, 0]]),
        (1, 20, [[0]]),
    ],
)
def test_the_nearest_are_those_of_the_smallest_angle_as_many_as_there_are(number, topk, expected):
    assert nearest(FEATURES[:number], topk, "torch").tolist() == expected


def test_the_figures_by_hand_with_the_neighbors_mined_from_these_images(judge):
    found = judge(torch.tensor([[0.75, 0.25]] * 3 + [[0.05, 0.95]] * 3))
    own = -(3 * math.log(0.75**2 + 0.25**2) + 3 * math.log(0.05**2 + 0.95**2)) / 12  # each image with itself,
    pairs = -math.log(0.75 * 0.05 + 0.25 * 0.95) / 2  # and with its neighbor, of the other cluster
    assert found["consistency"] == pytest.approx(own + pairs, abs=1e-6)
    assert found["entropy"] == pytest.approx(-(0.4 * math.log(0.4) + 0.6 * math.log(0.6)), abs=1e-6)
    assert found["neighbor_agreement"] == 0 and found["sizes"] == [3, 3]
    assert found["confidence_histogram"] == [0, 0, 0, 0, 0, 0, 0, 3, 0, 3]
    assert found["silhouette"] > 0.8  # the two clusters lie opposite each other


@pytest.mark.parametrize("fault", [{"images": "0" * 64}, {"content": b"damaged"}, {"images": None}], ids=str)
def test_where_they_are_of_others_damaged_or_missing_the_nearest_by_the_features_serve(fault, judge):
    found = judge(torch.eye(2).repeat_interleave(3, dim=0), **fault)
    assert found["neighbor_agreement"] == pytest.approx(2 / 5)  # all 5 others are neighbors, 2 in the cluster


def test_a_prior_counts_in_the_entropy(judge):
    found = judge(torch.eye(2).repeat_interleave(3, dim=0), prior=[3, 1])
    divergence = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)  # of [.5, .5] from [.75, .25]
    assert found["entropy"] == pytest.approx(math.log(2) - divergence, abs=1e-6)


def test_zero_norm_features_leave_out_what_needs_neighbors_and_the_console_says_so(judge, capsys):
    found = judge(torch.eye(2).repeat(3, 1), torch.zeros(6, 2), images=None)
    assert "neighbor_agreement" not in found and "consistency" not in found and found["sizes"] == [3, 3]
    assert "6 of 6 features" in capsys.readouterr().out
