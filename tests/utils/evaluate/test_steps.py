import pytest
import torch

from utils.evaluate.label_free import inertia, silhouette
from utils.evaluate.steps import compare_steps, step_warnings

CENTRES = torch.eye(4)[:3]  # of k-means on such features


def separated(images=30):
    """Features of step 1 (N, 4), close to one of three directions and of all lengths, and which."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(images) % 3
    features = torch.eye(4)[targets] + 0.05 * torch.randn(images, 4, generator=generator)
    return features * (0.1 + 9 * torch.rand(images, 1, generator=generator)), targets


def sure(clusters, num_clusters=3):
    """Probabilities (N, K) with their largest at these clusters."""
    return (torch.eye(num_clusters)[clusters] + 0.5).softmax(dim=1)


def names(*steps):
    return {f"step1_{figure}_{step}" for figure in ("silhouette", "inertia") for step in steps}


def test_each_step_and_k_means_have_a_silhouette_and_an_inertia_in_the_features_of_step_1():
    features, targets = separated()
    halves = torch.arange(30) // 15  # clusters that are none of the features
    found = compare_steps(features, CENTRES, {"scan": sure(halves), "selflabel": sure(targets)}, targets)
    assert found.keys() == names("kmeans", "scan", "selflabel") | {"ACC_kmeans"}
    for step, clusters in (("scan", halves), ("selflabel", targets), ("kmeans", targets)):
        assert found[f"step1_silhouette_{step}"] == pytest.approx(silhouette(features, clusters), abs=1e-6)
        assert found[f"step1_inertia_{step}"] == pytest.approx(inertia(features, clusters), abs=1e-6)
    assert found["step1_silhouette_scan"] < 0.2 < 0.8 < found["step1_silhouette_selflabel"]


def test_k_means_of_separated_features_is_right_whatever_a_step_makes_of_them():
    features, targets = separated()
    found = compare_steps(features, CENTRES, {"scan": sure(torch.arange(30) // 10)}, targets)
    assert found["ACC_kmeans"] == 1


@pytest.mark.parametrize(
    "labels", [None, torch.full((30,), -1), torch.zeros(30)], ids=["none", "-1", "one class"]
)
def test_without_labels_of_two_classes_there_is_no_accuracy(labels):
    features, targets = separated()
    assert compare_steps(features, CENTRES, {"scan": sure(targets)}, labels).keys() == names("kmeans", "scan")


def test_without_centres_there_is_no_k_means():
    features, targets = separated()
    assert compare_steps(features, None, {"scan": sure(targets)}, targets).keys() == names("scan")


def test_a_step_that_puts_all_in_one_cluster_has_no_silhouette():
    features, targets = separated()
    found = compare_steps(features, CENTRES, {"scan": sure(torch.zeros(30).long())}, targets)
    assert found.keys() == names("scan", "kmeans") - {"step1_silhouette_scan"} | {"ACC_kmeans"}


# -- step_warnings


@pytest.mark.parametrize(
    "scores, warned",
    [
        ({"kmeans": 0.3, "scan": 0.21, "selflabel": 0.15}, []),  # 70 % and 71 % of the step before
        ({"kmeans": 0.3, "scan": 0.19, "selflabel": 0.18}, ["scan"]),
        ({"kmeans": 0.3, "scan": 0.3, "selflabel": -0.1}, ["selflabel"]),
        ({"scan": 0.1, "selflabel": 0.01}, ["selflabel"]),
        ({"kmeans": -0.09, "scan": -0.07}, []),
        ({"scan": 0.1}, []),
    ],
)
def test_a_step_is_warned_of_that_leaves_less_than_two_thirds_of_the_silhouette_before_it(scores, warned):
    figures = {f"step1_silhouette_{name}": value for name, value in scores.items()} | {"ACC": 0.5}
    warnings = step_warnings(figures)
    assert [warning.partition(" ")[0] for warning in warnings] == warned
