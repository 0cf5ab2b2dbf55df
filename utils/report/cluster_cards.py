"""What each cluster of a clustering holds: the figures and the images that show it; arrays in, plain Python out."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.arrays import integers
from utils.evaluate.clustering import contingency_table, prototypes

CONFIDENT, DOUBTFUL, CLASSES = 7, 8, 3  # of a cluster: images beside the prototype, and commonest classes
BINS = 10  # of a histogram of confidences
ROWS_AT_ONCE = 4096  # of the features, in double precision


class Cluster(NamedTuple):
    """What a card says. Of an empty cluster `images` is empty, and confidence, cohesion and nearest are None.

    histogram: images in each tenth of the confidences. nearest: the cluster of the most similar mean feature, and the
    cosine of the two. classes: the commonest, with their share of the labelled images. images: row numbers, the
    prototype first, then by falling confidence; doubtful: by rising confidence, none of them in `images`."""

    number: int
    name: str
    size: int
    share: float
    confidence: float | None
    histogram: list[int]
    cohesion: float | None
    nearest: tuple[int, float] | None
    classes: list[tuple[str, float]]
    images: list[int]
    doubtful: list[int]


def describe_clusters(
    dataset, probabilities: Tensor, features: Tensor, names: Mapping[int, str]
) -> list[Cluster]:
    """What the card of each of the K clusters says, from (N, K) probabilities and (N, D) features."""
    num_images, num_clusters = probabilities.shape
    confidence, predictions = probabilities.max(dim=1)  # (N,) each
    sizes = predictions.bincount(minlength=num_clusters)  # (K,)
    means = mean_features(features, predictions, num_clusters)  # (K, D)
    cohesion = mean_similarities(features, predictions, means)  # (K,)
    similarity, nearest = nearest_clusters(means, sizes)  # (K,) each
    bins = (confidence * BINS).long().clamp(max=BINS - 1)  # (N,)
    histograms = (predictions * BINS + bins).bincount(minlength=num_clusters * BINS).view(num_clusters, BINS)
    confident = prototypes(probabilities, features, companions=CONFIDENT)
    rising = confidence.argsort(stable=True)  # (N,)
    members = rising[predictions[rising].argsort(stable=True)].split(
        sizes.tolist()
    )  # K of (size,), least sure first
    classes = common_classes(dataset, predictions, num_clusters)

    clusters = []
    for k, size in enumerate(sizes.tolist()):
        images = confident.get(k, [])
        others = [row for row in members[k][: DOUBTFUL + len(images)].tolist() if row not in images]
        clusters.append(
            Cluster(
                k,
                names.get(k) or f"cluster {k}",
                size,
                size / num_images,
                confidence[members[k]].double().mean().item() if size else None,
                histograms[k].tolist(),
                cohesion[k].item() if size else None,
                (int(nearest[k]), similarity[k].item()) if similarity[k].isfinite() else None,
                classes[k],
                images,
                others[:DOUBTFUL],
            )
        )
    return clusters


def mean_features(features: Tensor, predictions: Tensor, num_clusters: int) -> Tensor:
    """Mean feature of each cluster, float64 (K, D), 0 where it is empty; features: (N, D), predictions: (N,)."""
    sums = torch.zeros(num_clusters, features.shape[1], dtype=torch.float64)  # (K, D)
    for rows, clusters in zip(features.split(ROWS_AT_ONCE), predictions.split(ROWS_AT_ONCE), strict=True):
        sums.index_add_(0, clusters, rows.double())
    return sums / predictions.bincount(minlength=num_clusters).clamp(min=1)[:, None]


def mean_similarities(features: Tensor, predictions: Tensor, means: Tensor) -> Tensor:
    """Cohesion of each cluster, (K,): mean cosine of its images' features (N, D) and its mean feature (K, D)."""
    cosines = [
        F.cosine_similarity(rows.double(), means[clusters], dim=1)
        for rows, clusters in zip(features.split(ROWS_AT_ONCE), predictions.split(ROWS_AT_ONCE), strict=True)
    ]
    return mean_features(torch.cat(cosines)[:, None], predictions, len(means)).flatten()


def nearest_clusters(means: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Of each cluster the most similar other one that holds images: the cosine of their mean features and its number,
    (K,) each; the cosine is -inf where one of the two does not exist. means: (K, D), sizes: (K,)."""
    similarity = F.normalize(means, dim=1) @ F.normalize(means, dim=1).T  # (K, K)
    similarity.fill_diagonal_(-torch.inf)
    similarity[:, sizes == 0] = similarity[sizes == 0] = -torch.inf
    return similarity.max(dim=1)


def common_classes(dataset, predictions: Tensor, num_clusters: int) -> list[list[tuple[str, float]]]:
    """The commonest classes of each of the K clusters, each with its share of the cluster's labelled images."""
    if not dataset.is_labelled:
        return [[]] * num_clusters
    targets = integers(dataset.targets)
    labelled = targets >= 0  # (N,)
    table = contingency_table(predictions[labelled], targets[labelled], num_clusters)  # (K, C)
    counts, classes = table.sort(dim=1, descending=True, stable=True)
    totals = table.sum(dim=1).tolist()
    return [
        [(dataset.classes[c], n / total) for c, n in zip(row_classes, row_counts, strict=True) if n]
        for row_classes, row_counts, total in zip(
            classes[:, :CLASSES].tolist(), counts[:, :CLASSES].tolist(), totals, strict=True
        )
    ]
