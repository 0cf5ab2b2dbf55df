import math

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score

from losses import scan_loss
from utils.evaluate import label_free
from utils.evaluate.label_free import inertia, neighbor_agreement, scan_validation, silhouette


def random_logits(images=30, clusters=7):
    return 2 * torch.randn(images, clusters, generator=torch.Generator().manual_seed(0))


# -- scan_validation


def loop_validation(probabilities, neighbors):
    pairs = [(row, other) for row, others in enumerate(neighbors) for other in others]
    logs = [math.log(np.dot(probabilities[i], probabilities[j]) or 1e-300) for i, j in pairs]
    consistency = -sum(max(log, -100) for log in logs) / len(pairs)
    mean = [max(column, 1e-8) for column in np.mean(probabilities, axis=0)]
    return terms(consistency, -sum(p * math.log(p) for p in mean))


def terms(consistency, entropy):
    return {"consistency": consistency, "entropy": entropy, "total_loss": consistency - entropy}


@pytest.mark.parametrize("at_once", [1, 500, 10**6])  # products: one image at a time, some, all
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_scan_validation_equals_a_loop_over_all_pairs_itself_included(at_once, dtype, monkeypatch):
    monkeypatch.setattr(label_free, "PRODUCTS_AT_ONCE", at_once)
    probabilities = random_logits().softmax(dim=1).to(dtype)
    neighbors = np.column_stack([np.arange(30), np.random.default_rng(0).integers(0, 30, (30, 5))])
    found = scan_validation(probabilities, neighbors)
    assert found == pytest.approx(loop_validation(probabilities.double().numpy(), neighbors), rel=1e-5)
    assert all(type(value) is float for value in found.values())


def test_scan_validation_of_confident_balanced_agreeing_clusters_is_minus_ln_k():
    found = scan_validation(torch.eye(4).repeat(2, 1), torch.tensor([[i, (i + 4) % 8] for i in range(8)]))
    assert found == pytest.approx(terms(0, math.log(4)))


def test_scan_validation_counts_a_pair_that_shares_nothing_as_100():
    found = scan_validation(torch.eye(2), torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]]))
    assert found["consistency"] == pytest.approx(100 * 2 / 8)


def test_scan_validation_floors_an_empty_cluster_at_1e_8_and_bears_a_sum_slightly_over_1():
    found = scan_validation(torch.tensor([[1.0, 0.0]]), torch.tensor([[0]]))
    assert found["entropy"] == pytest.approx(-1e-8 * math.log(1e-8))
    found = scan_validation(torch.tensor([[1 + 1e-6, 0.0]]), torch.tensor([[0, 0]]))
    assert found["consistency"] == pytest.approx(0, abs=1e-5)


def test_scan_validation_under_a_prior_is_ln_k_minus_the_divergence_from_it():
    mean, prior = [0.5, 0.5], [0.75, 0.25]
    divergence = sum(p * math.log(p / q) for p, q in zip(mean, prior, strict=True))
    found = scan_validation(torch.tensor([mean]), torch.tensor([[0]]), [3, 1])
    assert found == pytest.approx(terms(-math.log(0.5), math.log(2) - divergence))


def test_scan_validation_and_the_training_loss_have_one_entropy_under_a_prior():
    logits, prior = random_logits(), [1, 2, 3, 4, 5, 6, 7]
    trained = scan_loss(logits, logits, 1.0, prior)
    found = scan_validation(logits.softmax(dim=1), torch.arange(30)[:, None], prior)
    assert found == pytest.approx(terms(trained.consistency.item(), trained.entropy.item()), rel=1e-5)


# -- confidence_histogram, cluster_sizes


TENTHS = torch.arange(11) / 10


@pytest.mark.parametrize(
    "confidences, counts",
    [
        (TENTHS, [1] * 9 + [2]),
        (TENTHS[1:] - 1e-5, [1] * 10),
        (torch.tensor([1 + 1e-6, 0.25]), [0, 0, 1, 0, 0, 0, 0, 0, 0, 1]),  # just above 1 by rounding
    ],
)
def test_each_tenth_begins_a_bin_and_1_belongs_to_the_last(confidences, counts):
    found = label_free.confidence_histogram(torch.stack([torch.zeros_like(confidences), confidences], dim=1))
    assert found == counts and all(type(count) is int for count in found)


def test_cluster_sizes_count_the_images_of_every_cluster_empty_ones_too():
    found = label_free.cluster_sizes(np.eye(5)[[3, 0, 3, 3, 1]])
    assert found == [1, 1, 0, 3, 0] and all(type(size) is int for size in found)


# -- neighbor_agreement


@pytest.mark.parametrize("kind", [list, np.array, lambda rows: torch.tensor(rows).int()])
def test_neighbor_agreement_is_the_share_of_pairs_in_one_cluster_column_0_left_out(kind):
    neighbors = [[0, 1, 2], [1, 0, 3], [2, 3, 0], [3, 2, 1]]
    # clusters 5 5 6 5: 0-1, 1-0, 1-3, 3-1 agree; 0-2, 2-3, 2-0, 3-2 do not
    assert neighbor_agreement(kind([5, 5, 6, 5]), kind(neighbors)) == 0.5


# -- silhouette


def scattered(images, clusters=3):
    """Features (N, 4) around a direction of each cluster, of all lengths, and the clusters (N,)."""
    generator, predictions = torch.Generator().manual_seed(0), torch.arange(images) % clusters
    directions = torch.eye(4)[predictions] + 0.5 * torch.randn(images, 4, generator=generator)
    return directions * (0.1 + 9 * torch.rand(images, 1, generator=generator)), predictions


def test_two_opposite_points_twice_have_silhouette_1_whatever_their_lengths():
    assert silhouette([[1.0, 0], [5.0, 0], [-1.0, 0], [-9.0, 0]], [7, 7, 2, 2]) == pytest.approx(1)


def test_silhouette_of_many_images_is_that_of_3000_drawn_with_the_seed():
    features, predictions = scattered(3500)
    found = silhouette(features, predictions, seed=1)
    assert found != silhouette(features, predictions, seed=2)
    drawn = torch.randperm(3500, generator=torch.Generator().manual_seed(1))[:3000]
    unit = features[drawn] / features[drawn].norm(dim=1, keepdim=True)
    assert found == pytest.approx(silhouette_score(unit.numpy(), predictions[drawn].numpy()), abs=1e-5)
    features, predictions = features[:3000], predictions[:3000]  # all of them are taken, whatever the seed
    assert silhouette(features, predictions, seed=1) == silhouette(features, predictions, seed=2)


@pytest.mark.parametrize("predictions", [[0, 0, 0], [4, 4, 4], [0, 1, 2]])
def test_silhouette_is_none_where_one_cluster_is_used_or_one_for_each_image(predictions):
    assert silhouette(torch.eye(3), predictions) is None


# -- inertia


def loop_inertia(features, predictions):
    """Image by image: the squared distance to the mean of all images of its cluster, of unit length."""
    unit, total = [x / np.sqrt(x @ x) for x in features], 0
    for x, cluster in zip(unit, predictions, strict=True):
        mean = np.mean(
            [other for other, its in zip(unit, predictions, strict=True) if its == cluster], axis=0
        )
        total += (x - mean) @ (x - mean) / len(unit)
    return total


@pytest.mark.parametrize("clusters", [1, 3, 60])  # 60: one for each image
def test_inertia_equals_a_loop_over_images_whatever_the_lengths_and_the_clusters_numbers(clusters):
    features, _ = scattered(60)
    predictions = 2 * (torch.arange(60) % clusters) + 1  # the even numbers are empty
    expected = loop_inertia(features.double().numpy(), predictions.tolist())
    found = inertia(features, predictions)
    assert type(found) is float and found == pytest.approx(expected, abs=1e-6)


def test_inertia_by_hand():
    assert inertia([[1.0, 0], [0, 5.0]], [0, 0]) == pytest.approx(1 / 2)  # both are off (1/2, 1/2)
    assert inertia([[1.0, 0], [-7.0, 0]], [0, 0]) == pytest.approx(1)  # opposite: the mean is 0
    # of three images one is alone, at its mean
    assert inertia([[1.0, 0], [-7.0, 0], [0, 1.0]], [0, 0, 4]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(5))  # unit lengths round up as often as down
def test_inertia_of_clusters_of_one_direction_each_is_0_and_not_less(seed):
    directions = torch.randn(5, 40, generator=torch.Generator().manual_seed(seed))
    predictions = torch.arange(1000) % 5
    features = directions[predictions] * torch.linspace(0.1, 9, 1000)[:, None]
    assert 0 <= inertia(features, predictions) < 1e-6
