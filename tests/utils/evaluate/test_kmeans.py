import math
import warnings

import pytest
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.metrics import adjusted_rand_score

from utils.evaluate import kmeans as module
from utils.evaluate.kmeans import (
    fit_kmeans,
    kmeans_accuracy,
    kmeans_centres,
    nearest_centre,
    read_centres,
    sample,
)
from utils.storage.arrays import to_npy

# -- fit_kmeans


def blobs(images=300):
    """Features (N, 4) close to one of three corners, and which."""
    corners = torch.arange(images) % 3
    noise = torch.randn(images, 4, generator=torch.Generator().manual_seed(0))
    return 10 * torch.eye(4)[corners] + 0.1 * noise, corners


@pytest.mark.parametrize("large, kind", [(300 * 4 * 3, KMeans), (300 * 4 * 3 - 1, MiniBatchKMeans)])
@pytest.mark.parametrize("seed", range(3))
def test_k_means_of_more_numbers_than_large_learns_from_batches_and_finds_clear_clusters_still(
    large, kind, seed, monkeypatch
):
    monkeypatch.setattr(module, "LARGE", large)  # images x feature size x clusters
    features, corners = blobs()
    found = fit_kmeans(features, 3, seed, restarts=3)
    assert type(found) is kind
    assert adjusted_rand_score(corners, found.labels_) == 1
    assert adjusted_rand_score(corners, found.predict(features.numpy())) == 1
    again = fit_kmeans(features, 3, seed, restarts=3)
    assert (again.cluster_centers_ == found.cluster_centers_).all()


def test_k_means_has_one_start_unless_told_and_its_seed_decides():
    features = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))  # no clusters
    for restarts in (1, 4):
        options = {"restarts": restarts} if restarts > 1 else {}
        expected = KMeans(6, n_init=restarts, random_state=5).fit(features.numpy())
        assert (fit_kmeans(features, 6, 5, **options).labels_ == expected.labels_).all()
        assert (fit_kmeans(features, 6, 6, **options).labels_ != expected.labels_).any()


# -- kmeans_centres, nearest_centre, read_centres


def test_the_length_of_features_does_not_decide_on_their_cluster():
    angles = torch.tensor([0.0, 1, 90, 91]).repeat(2).deg2rad()
    lengths = torch.tensor([1.0, 100, 1, 100, 100, 1, 100, 1])  # by which k-means would split them
    features = lengths[:, None] * torch.stack([angles.cos(), angles.sin()], dim=1)
    centres = kmeans_centres(features, 2, seed=0)
    first, second = (nearest_centre(each, centres) for each in (features, features / 4))
    assert first.dtype == torch.int64 and torch.equal(first, second)
    assert (first == first[0]).tolist() == [True, True, False, False] * 2


def test_the_clusters_are_of_the_best_of_5_starts():
    features = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    unit = features / features.norm(dim=1, keepdim=True)
    expected = KMeans(6, n_init=5, random_state=2).fit(unit.numpy())
    centres = kmeans_centres(features, 6, seed=2)
    torch.testing.assert_close(centres, torch.from_numpy(expected.cluster_centers_).float())
    assert adjusted_rand_score(nearest_centre(features, centres), expected.labels_) == 1


def test_the_nearest_centre_is_so_by_distance_not_by_angle():
    centres = torch.tensor([[2.0, 0.0], [0.4, 0.4]])  # of (1, 0): 1 and 0.72 away
    assert nearest_centre(torch.tensor([[5.0, 0.0]]), centres).tolist() == [1]


def test_the_centres_of_a_file_are_read_unless_they_do_not_fit_the_features(tmp_path):
    centres, path = torch.arange(6.0).view(2, 3), tmp_path / "kmeans.npy"
    assert read_centres(path, 3) is None
    path.write_bytes(to_npy(centres))
    assert torch.equal(read_centres(path, 3), centres) and read_centres(path, 4) is None
    path.write_bytes(b"damaged")
    assert read_centres(path, 3) is None


def test_of_a_large_set_k_means_takes_evenly_spaced_images(monkeypatch):
    features = torch.arange(12.0).view(6, 2)
    monkeypatch.setattr(module, "ENOUGH", 3)
    monkeypatch.setattr(module, "LARGE", 6 * 2 * 2)
    assert torch.equal(sample(features, 2), features)
    assert torch.equal(sample(features, 3), features[[0, 2, 4]])


# -- kmeans_accuracy


def test_kmeans_is_fitted_on_the_first_features_and_only_applied_to_the_others():
    features = torch.tensor([[0.0], [1.0], [9.0], [10.0]])
    others = torch.tensor([[0.0], [1.0], [8.0], [100.0]])  # fitted on these, 100 would be alone
    assert kmeans_accuracy(features, others, torch.tensor([0, 0, 1, 1]), 2, seed=0) == 1.0
    assert math.isnan(kmeans_accuracy(features, others, torch.tensor([1, 1, -1, 1]), 2, seed=0))  # one class


def test_fewer_distinct_features_than_clusters_give_no_warning_of_a_library():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copies = torch.eye(2).repeat(10, 1)  # 2 distinct points, 3 clusters
        assert kmeans_accuracy(copies, copies, torch.arange(20) % 2, 3, seed=0) == 1.0
