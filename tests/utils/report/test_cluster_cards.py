"""What the report says of each cluster, against slow loops and by hand."""

import numpy as np
import pytest
import torch

from utils.report.cluster_cards import Clustering, describe_clusters


class Labels(list):
    """A data set of unseen images."""


def described(probabilities, features, names=(), targets=None):
    dataset = Labels(probabilities)
    dataset.targets, dataset.classes = targets, "abcd"
    return describe_clusters(Clustering(dataset, probabilities, features, {}, dict(names)))


def assigned(*predictions, of=3):
    return torch.eye(of)[list(predictions)]


def cosine(a, b):
    return np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b))


def test_size_confidence_histogram_cohesion_and_nearest_equal_a_slow_loop():
    generator = torch.Generator().manual_seed(0)
    probabilities = (2 * torch.randn(60, 4, generator=generator)).softmax(dim=1)
    features = torch.randn(60, 5, generator=generator) + 1
    found = described(probabilities, features)
    confidence, predictions = (values.numpy() for values in probabilities.max(dim=1))
    features = features.double().numpy()
    members = [[i for i in range(60) if predictions[i] == k] for k in range(4)]
    means = [sum(features[i] for i in rows) / len(rows) for rows in members]
    for k, (cluster, rows) in enumerate(zip(found, members, strict=True)):
        assert (cluster.number, cluster.size) == (k, len(rows))
        assert cluster.confidence == pytest.approx(sum(float(confidence[i]) for i in rows) / len(rows))
        tenths = [int(10 * confidence[i]) for i in rows]
        assert cluster.histogram == [tenths.count(tenth) for tenth in range(10)]
        assert cluster.cohesion == pytest.approx(sum(cosine(features[i], means[k]) for i in rows) / len(rows))
        similarity, nearest = max((cosine(means[k], means[other]), other) for other in range(4) if other != k)
        assert cluster.nearest == (nearest, pytest.approx(similarity))


def test_cohesion_is_measured_to_the_mean_of_the_features_as_they_are():
    (first, *_) = described(assigned(0, 0), torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    assert first.cohesion == pytest.approx((3 / 5 + 4 / 5) / 2)  # mean (1.5, 2); of unit rows it were 0.71
    assert first.histogram == [0] * 9 + [2]  # full confidence falls in the last tenth


def test_an_empty_cluster_has_no_figures_and_is_not_the_nearest_of_any():
    features = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # opposite: a cosine below the 0 of no features
    found = described(assigned(0, 2), features)
    assert [cluster.nearest for cluster in found] == [(2, pytest.approx(-1)), None, (0, pytest.approx(-1))]
    assert (found[1].size, found[1].confidence, found[1].cohesion, found[1].images) == (0, None, None, [])
    assert [cluster.nearest for cluster in described(assigned(1, 1), torch.eye(2))] == [None] * 3


def test_the_images_are_the_prototype_7_of_the_most_and_8_of_the_least_confident():
    confidence = torch.tensor([0.9 - 0.01 * i for i in range(20)])
    features = torch.ones(20, 1)
    features[5] = 1.5  # with row 9 at 10.5, the mean of the ten most confident is 2: row 5 is nearest
    features[9] = 10.5
    first, _ = described(torch.stack([confidence, 1 - confidence], dim=1), features)
    assert first.images == [5, 0, 1, 2, 3, 4, 6, 7]
    assert first.doubtful == [19, 18, 17, 16, 15, 14, 13, 12]


def test_a_small_cluster_shows_no_image_twice():
    confidence = torch.tensor([0.9, 0.8, 0.7, 0.95, 0.6, 0.65, 0.85, 0.75, 0.55, 0.52])
    first, _ = described(torch.stack([confidence, 1 - confidence], dim=1), torch.ones(10, 1))
    assert (first.images, first.doubtful) == ([3, 0, 6, 1, 7, 2, 5, 4], [9, 8])


def test_a_card_has_the_name_given_and_the_commonest_classes_as_shares_of_the_labelled_images():
    targets = torch.tensor([0, 1, 1, 1, -1, 2, 3, -1])
    found = described(assigned(0, 0, 0, 0, 0, 0, 0, 1), torch.ones(8, 2), {1: "cats", 2: ""}, targets)
    assert [cluster.classes for cluster in found] == [[("b", 3 / 6), ("a", 1 / 6), ("c", 1 / 6)], [], []]
    assert [cluster.name for cluster in found] == ["cluster 0", "cats", "cluster 2"]
