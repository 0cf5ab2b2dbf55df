import itertools
import math
import re
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom

from utils.evaluate import clustering
from utils.evaluate.clustering import clustering_metrics, evaluate_clusters, prototypes
from utils.evaluate.label_free import silhouette


def random_labels(count, seed, size=60):
    return np.random.default_rng(seed).integers(0, count, size)


def random_probabilities(images=30, clusters=7, seed=0):
    return (2 * torch.randn(images, clusters, generator=torch.Generator().manual_seed(seed))).softmax(dim=1)


# -- clustering_metrics: one-to-one matching


@pytest.mark.parametrize("num_clusters, num_classes", [(4, 4), (6, 4), (3, 5)])
def test_acc_is_that_of_the_best_of_all_one_to_one_matchings(num_clusters, num_classes):
    predictions, targets = random_labels(num_clusters, seed=1), random_labels(num_classes, seed=2)
    found = clustering_metrics(predictions, targets)
    matchings = itertools.permutations(range(max(num_clusters, num_classes)), num_clusters)  # all of them
    assert found["ACC"] == pytest.approx(
        max(np.mean(np.take(each, predictions) == targets) for each in matchings)
    )
    for side in zip(*found["hungarian_match"], strict=True):
        assert len(set(side)) == len(side) == min(num_clusters, num_classes)


def test_twice_as_many_pure_clusters_as_classes_are_half_right_and_all_right_many_to_one():
    targets = np.repeat(np.arange(5), 8)
    found = clustering_metrics(2 * targets + np.tile([0, 1], 20), targets)
    assert (found["ACC"], found["ACC many-to-one"]) == (0.5, 1.0)


def test_a_class_missing_from_the_split_costs_nothing():
    found = clustering_metrics([3, 3, 0, 0, 2, 2], [0, 0, 1, 1, 3, 3])
    assert found["ACC"] == found["ACC many-to-one"] == found["NMI"] == 1.0


# -- clustering_metrics: the other numbers


@pytest.mark.parametrize("clusters", [3, 5, 9])
def test_top_5_asks_whether_one_of_the_5_likeliest_clusters_maps_to_the_class(clusters):
    probabilities, targets = random_probabilities(clusters=clusters), random_labels(clusters, seed=8, size=30)
    found = clustering_metrics(probabilities.argmax(dim=1), targets, probabilities)
    class_of, right = dict(found["hungarian_match"]), 0
    for row, target in zip(probabilities.tolist(), targets, strict=True):
        likeliest = sorted(range(clusters), key=lambda cluster: -row[cluster])[:5]
        right += any(class_of[cluster] == target for cluster in likeliest)
    assert found["ACC Top-5"] == pytest.approx(right / 30)


def test_an_unmatched_cluster_is_never_a_top_5_hit():
    # Clusters 8 and 9 are matched to the two classes, but are the least likely of ten for every image.
    probabilities = (1 - 0.1 * torch.arange(10)).expand(5, 10)
    assert clustering_metrics([8, 8, 8, 9, 9], [0, 0, 0, 1, 1], probabilities)["ACC Top-5"] == 0.0


def test_a_thousand_clusters_by_hand():
    """5 images of each of 1000 classes: 4 in the class's own cluster, 1 in that of the next class. For it,
    the own cluster is the fifth likeliest in even classes, the sixth in odd ones."""
    cluster_of = [7 * target % 1000 for target in range(1000)]
    targets = np.arange(1000).repeat(5)
    probabilities = torch.zeros(5000, 1000)
    for row, target in enumerate(targets):
        ahead = 4 + target % 2 if row % 5 == 0 else 0
        likeliest = [cluster_of[(target + step) % 1000] for step in [*range(1, ahead + 1), 0]]
        probabilities[row, likeliest] = torch.linspace(1, 0.5, len(likeliest))
    found = clustering_metrics(probabilities.argmax(dim=1), targets, probabilities)

    assert sorted(found["hungarian_match"]) == sorted((cluster_of[target], target) for target in range(1000))
    assert found["ACC"] == found["ACC many-to-one"] == pytest.approx(4 / 5)
    assert found["ACC Top-5"] == pytest.approx(4 / 5 + 1 / 10)
    entropy = math.log(1000)  # of the classes, and of the clusters, 5 images each
    information = entropy + 0.8 * math.log(0.8) + 0.2 * math.log(0.2)
    assert found["NMI"] == pytest.approx(information / entropy)
    same = np.arange(1, 6)  # images that a class and a cluster share by chance
    by_chance = 1000**2 * np.sum(same / 5000 * np.log(5000 * same / 25) * hypergeom.pmf(same, 5000, 5, 5))
    assert found["AMI"] == pytest.approx((information - by_chance) / (entropy - by_chance))
    pairs = 1000 * math.comb(5, 2)  # in one class; in one cluster
    chance_pairs = pairs**2 / math.comb(5000, 2)
    assert found["ARI"] == pytest.approx((1000 * math.comb(4, 2) - chance_pairs) / (pairs - chance_pairs))


def test_there_are_as_many_clusters_as_the_probabilities_have_columns():
    found = clustering_metrics([0, 1, 1], [0, 1, 2], torch.eye(4)[[0, 1, 1]])
    assert len(found["hungarian_match"]) == 3  # each class has one of four clusters, two of them empty


def test_images_of_target_minus_1_are_left_out_of_every_metric_and_counted():
    probabilities, targets = random_probabilities(), random_labels(7, seed=9, size=30)
    labelled, predictions = np.arange(30) % 3 > 0, probabilities.argmax(dim=1)
    found = clustering_metrics(predictions, np.where(labelled, targets, -1), probabilities)
    assert found.pop("labelled images") == 20
    assert found == clustering_metrics(predictions[labelled], targets[labelled], probabilities[labelled])


@pytest.mark.parametrize("targets", [None, [-1, -1, -1], [2, 2, 2], [-1, 0, 0]])
def test_without_labels_of_two_classes_there_are_no_metrics(targets):
    assert clustering_metrics([0, 1, 2], targets) == {}


KEYS = {"ACC", "balanced ACC", "macro-F1", "NMI", "AMI", "ARI", "ACC many-to-one"}


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
@pytest.mark.parametrize(
    "probabilities, more", [([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], {"ACC Top-5"}), (None, set())]
)
def test_lists_arrays_and_tensors_give_the_same_plain_python_numbers(kind, probabilities, more):
    found = clustering_metrics(kind([0, 0, 1]), kind([1, 1, 0]), probabilities and kind(probabilities))
    assert sorted(found.pop("hungarian_match")) == [(0, 1), (1, 0)] and found.keys() == KEYS | more
    assert all(type(value) is float and value == 1.0 for value in found.values())


# -- clustering_metrics: uneven classes


def test_a_collapse_of_97_and_3_images_looks_right_by_acc_alone():
    found = clustering_metrics([0] * 100, [0] * 97 + [1] * 3, torch.eye(2)[[0] * 100])
    assert (found["ACC"], found["balanced ACC"]) == (0.97, 0.5)  # recall 1 and 0
    assert found["macro-F1"] == pytest.approx((2 * 97 / (97 + 100) + 0) / 2)  # 2 hits / (images + predicted)
    assert found["NMI"] == pytest.approx(0)


def test_images_of_a_cluster_without_a_class_are_wrong_and_claimed_by_no_class():
    # Cluster 0 has class 0, cluster 1 class 2; cluster 2 has images of class 0. Class 1 has no image.
    found = clustering_metrics([0, 0, 0, 0, 2, 2, 1, 1, 0], [0, 0, 0, 0, 0, 0, 2, 2, 2])
    assert found["balanced ACC"] == pytest.approx((4 / 6 + 2 / 3) / 2)
    assert found["macro-F1"] == pytest.approx((2 * 4 / (6 + 5) + 2 * 2 / (3 + 2)) / 2)


# -- evaluate_clusters


def test_the_report_on_four_clusters_of_which_one_is_empty():
    rows = [[0.7, 0.1, 0.1, 0.1], [0.6, 0.2, 0.2, 0.0], [0.1, 0.8, 0.1, 0.0], [0.1, 0.0, 0.9, 0.0]]
    assert evaluate_clusters(torch.tensor(rows), None) == pytest.approx(
        {
            "used_clusters": 3,
            "effective_clusters": math.exp(0.5 * math.log(2) + 2 * 0.25 * math.log(4)),
            "smallest_share": 0.0,
            "largest_share": 0.5,
            "mean_confidence": 0.75,
        }
    )


def test_the_report_is_of_all_images_the_metrics_of_the_labelled_ones():
    report = evaluate_clusters(torch.eye(2)[[0, 1, 1]], torch.tensor([0, 1, -1]))
    assert (report["labelled images"], report["ACC"], report["largest_share"]) == (2, 1, pytest.approx(2 / 3))


# -- clustering_warnings


def report_of(sizes, targets=None):
    """The report on clusters of these sizes, the images in order."""
    clusters = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return evaluate_clusters(torch.eye(len(sizes))[clusters], targets)


CHANCE = [0, 0, 0, 1] * 20  # of either cluster three quarters are of class 0


@pytest.mark.parametrize(
    "report, named",
    [
        (report_of([5, 5], [0] * 5 + [1] * 5), []),
        (report_of([900, 100]), []),  # not more than 90 %
        (report_of([901, 99]), ["90.1%.*entropy_weight"]),
        (report_of([56, 24], CHANCE), [r"0\.600.*0\.000.*balanced ACC"]),  # ACC (42 + 6) / 80, NMI 0
        (report_of([40, 40], CHANCE), []),  # ACC (30 + 10) / 80 is not above a half
        (report_of([56, 24]) | {"ACC": 0.6, "NMI": 0.051}, []),
        (report_of([56, 24]) | {"ACC": 0.6, "NMI": 0.049}, ["NMI"]),
        (report_of([4, 0, 3, 3]), [r"\b3\b.*num_classes"]),
        (report_of([100, 0], [0] * 97 + [1] * 3), ["100.0%", r"0\.970", r"\b1\b"]),
    ],
)
def test_a_failed_clustering_is_warned_of_by_its_numbers_and_what_helps(report, named):
    warnings = clustering.clustering_warnings(report)
    assert len(warnings) == len(named) and all(map(re.search, named, warnings))


# -- map_clusters, neighbor_accuracy


def test_map_clusters_gives_the_matched_class_and_minus_1_where_there_is_none():
    mapped = clustering.map_clusters([0, 1, 2, 3, 1], [(0, 2), (1, 0), (5, 1)])
    assert mapped.dtype == torch.int64 and mapped.tolist() == [2, 0, -1, -1, 0]


@pytest.mark.parametrize("topk, right", [(1, 2 / 3), (2, 2 / 6)])
def test_neighbor_accuracy_leaves_out_column_0_and_columns_past_topk(topk, right):
    assert clustering.neighbor_accuracy([[0, 1, 2], [1, 0, 2], [2, 0, 1]], [5, 5, 6], topk) == pytest.approx(
        right
    )


def test_neighbor_accuracy_leaves_out_unlabelled_anchors_and_neighbors():
    neighbors = np.array([[0, 1, 2], [1, 0, 3], [2, 0, 3], [3, 2, 1]])
    # pairs with both labels: 0-1 right, 1-0 right, 0-2 wrong, 2-0 wrong; image 3 is unlabelled on either side
    assert clustering.neighbor_accuracy(neighbors, torch.tensor([1, 1, 0, -1]), topk=2) == 0.5


# -- prototypes


def one_cluster(confidences):
    confidences = torch.tensor(confidences)
    return torch.stack([confidences, 1 - confidences], dim=1)


def test_the_prototype_is_the_nearest_to_the_mean_of_the_10_most_confident():
    confidences = [0.9 - 0.01 * i for i in range(12)]
    # Mean of the first ten: 4.6. Row 3, at 4, is nearest; rows 10 and 11, at 4.6, are not confident enough.
    features = torch.tensor([0.0, 1, 2, 4, 3, 6, 7, 8, 9, 6, 4.6, 4.6])[:, None]
    assert prototypes(one_cluster(confidences), features) == {0: [3, 0, 1, 2, 4, 5, 6, 7, 8, 9]}


@pytest.mark.parametrize("companions, rows", [(9, [2, 1, 3, 0]), (2, [2, 1, 3])])
def test_companions_follow_by_falling_confidence_whatever_the_row_order(companions, rows):
    features = np.array([[10.0, 0], [0, 0], [4, 0], [1, 0]])  # mean (3.75, 0): row 2 is nearest
    assert prototypes(one_cluster([0.7, 0.95, 0.8, 0.9]), features, companions) == {0: rows}


def test_fewer_companions_than_candidates_still_look_for_the_prototype_among_10():
    confidences = [0.9 - 0.01 * i for i in range(10)]
    features = torch.tensor([[0.0], [20]] * 4 + [[0], [10]])  # mean 9: row 9 is nearest, the least confident
    assert prototypes(one_cluster(confidences), features, companions=3) == {0: [9, 0, 1, 2]}


def test_each_cluster_takes_its_own_images_and_an_empty_one_has_no_entry():
    rows = [[0.0, 0.1, 0.9], [0.6, 0.0, 0.4], [0.0, 0.2, 0.8], [0.7, 0.1, 0.2], [0.1, 0.0, 0.9]]
    features = torch.tensor([[0.0], [5.0], [3.0], [5.0], [7.0]])  # means: cluster 2 10/3, cluster 0 5, a tie
    assert prototypes(torch.tensor(rows), features) == {0: [3, 1], 2: [2, 0, 4]}


def test_the_distance_is_euclidean_and_the_features_are_not_normalised():
    # Mean (10, 1). Row 1 is nearest, 2.8 against 3; by city blocks (4 against 3) or angle it would be row 0.
    features = torch.tensor([[13.0, 1.0], [12.0, 3.0], [5.0, -1.0]])
    assert prototypes(one_cluster([0.9, 0.8, 0.7]), features)[0][0] == 1


# -- warnings of the libraries


def test_odd_input_gives_no_warning_of_a_library():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert clustering_metrics([0, 1, 2], [0, 1, 2])["ACC"] == 1.0  # as many classes as images
        assert silhouette(torch.eye(5), torch.tensor([0, 1, 2, 3, 3])) is not None
