import pytest
import torch

from utils.evaluate.kmeans import kmeans_clusters
from utils.evaluate.label_free import inertia, silhouette
from utils.evaluate.steps import compare_steps


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
    found = compare_steps(features, {"scan": sure(halves), "selflabel": sure(targets)}, targets, seed=0)
    assert found.keys() == names("kmeans", "scan", "selflabel") | {"ACC_kmeans"}
    for step, clusters in (("scan", halves), ("selflabel", targets), ("kmeans", targets)):
        assert found[f"step1_silhouette_{step}"] == pytest.approx(silhouette(features, clusters), abs=1e-6)
        assert found[f"step1_inertia_{step}"] == pytest.approx(inertia(features, clusters), abs=1e-6)
    assert found["step1_silhouette_scan"] < 0.2 < 0.8 < found["step1_silhouette_selflabel"]


def test_k_means_of_separated_features_is_right_whatever_a_step_makes_of_them():
    features, targets = separated()
    found = compare_steps(features, {"scan": sure(torch.arange(30) // 10)}, targets, seed=0)
    assert found["ACC_kmeans"] == 1


def test_k_means_has_as_many_clusters_as_the_first_step_and_the_runs_seed():
    features, targets = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 6
    for seed in (1, 2):
        found = compare_steps(features, {"scan": sure(targets, 6), "selflabel": sure(targets, 7)}, None, seed)
        clusters = kmeans_clusters(features, 6, seed)
        assert found["step1_inertia_kmeans"] == inertia(features, clusters)
        assert found["step1_silhouette_kmeans"] == silhouette(features, clusters)


@pytest.mark.parametrize(
    "labels", [None, torch.full((30,), -1), torch.zeros(30)], ids=["none", "-1", "one class"]
)
def test_without_labels_of_two_classes_there_is_no_accuracy(labels):
    features, targets = separated()
    assert compare_steps(features, {"scan": sure(targets)}, labels, seed=0).keys() == names("kmeans", "scan")


def test_fewer_images_than_clusters_have_no_k_means():
    features, targets = separated()
    found = compare_steps(features, {"scan": sure(targets, 31)}, targets, seed=0)
    assert found.keys() == names("scan")


def test_as_many_images_as_clusters_are_each_a_cluster_of_k_means_which_has_no_silhouette():
    features, targets = separated()
    found = compare_steps(features, {"scan": sure(targets, 30)}, targets, seed=0)
    assert found.keys() == names("scan", "kmeans") - {"step1_silhouette_kmeans"} | {"ACC_kmeans"}
    assert found["step1_inertia_kmeans"] == pytest.approx(0, abs=1e-6)
    assert found["ACC_kmeans"] == pytest.approx(3 / 30)  # one image of each class


def test_a_step_that_puts_all_in_one_cluster_has_no_silhouette():
    features, targets = separated()
    found = compare_steps(features, {"scan": sure(torch.zeros(30).long())}, targets, seed=0)
    assert found.keys() == names("scan", "kmeans") - {"step1_silhouette_scan"} | {"ACC_kmeans"}
