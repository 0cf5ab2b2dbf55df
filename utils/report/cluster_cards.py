"""What the report says of each cluster: size, confidence, nearest cluster, commonest classes, images."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.arrays import floats, integers
from utils.evaluate.clustering import prototypes
from utils.evaluate.label_free import confidence_histogram

MOST_CONFIDENT, LEAST_CONFIDENT, CLASSES = 7, 8, 3  # shown of a cluster, beside its prototype


class Clustering(NamedTuple):
    """A clustering to show.

    dataset: `len`, `targets`, `classes`, `get_image(i)`, the file name `name(i)`, and `duplicates()`.
    probabilities: (N, K) on the CPU, K >= 2. features: (N, D) on any device, not normalised. metrics: of
    `evaluate_clusters` and others. names: cluster -> the name that a person gave it."""

    dataset: Any
    probabilities: Tensor
    features: Tensor
    metrics: Mapping[str, Any]
    names: Mapping[int, str]


class Cluster(NamedTuple):
    """The content of a card. An empty cluster has no images, and no confidence, cohesion and nearest cluster.

    confidence: mean over its images. histogram: number of images in each tenth of the confidences. cohesion:
    mean cosine of its features and their mean. nearest: the cluster of the most similar mean feature, and the
    cosine. classes: the commonest ones, with their share of the labelled images. images: row numbers, the
    prototype first, then by falling confidence. doubtful: by rising confidence, none of them in `images`."""

    number: int
    name: str
    size: int
    confidence: float | None
    histogram: list[int]
    cohesion: float | None
    nearest: tuple[int, float] | None
    classes: list[tuple[str, float]]
    images: list[int]
    doubtful: list[int]


def describe_clusters(clustering: Clustering) -> list[Cluster]:
    """The card of each of the K clusters."""
    dataset, probabilities, *_ = clustering
    features = floats(clustering.features)
    confidence, predictions = probabilities.max(dim=1)  # (N,) each
    sizes = predictions.bincount(minlength=probabilities.shape[1])  # (K,)
    rising = confidence.argsort(stable=True)  # (N,)
    members = rising[predictions[rising].argsort(stable=True)].split(sizes.tolist())  # K of (size,)
    means = torch.stack([features[rows].double().mean(dim=0) for rows in members])  # (K, D), NaN if empty
    similarity = F.normalize(means, dim=1) @ F.normalize(means, dim=1).T  # (K, K)
    similarity.fill_diagonal_(-torch.inf)
    similarity[:, sizes == 0] = similarity[sizes == 0] = -torch.inf
    confident = prototypes(probabilities, features, companions=MOST_CONFIDENT)
    targets = None if dataset.targets is None else integers(dataset.targets)  # (N,)

    clusters = []
    for k, rows in enumerate(members):
        size = len(rows)
        cosines = F.cosine_similarity(features[rows].double(), means[k : k + 1], dim=1)  # (size,)
        similar, other = similarity[k].max(dim=0)
        images = confident.get(k, [])
        others = [row for row in rows[: LEAST_CONFIDENT + len(images)].tolist() if row not in images]
        card = Cluster(
            number=k,
            name=clustering.names.get(k) or f"cluster {k}",
            size=size,
            confidence=confidence[rows].double().mean().item() if size else None,
            histogram=confidence_histogram(probabilities[rows]),
            cohesion=cosines.mean().item() if size else None,
            nearest=(int(other), similar.item()) if similar.isfinite() else None,
            classes=[] if targets is None else commonest_classes(targets[rows], dataset.classes),
            images=images,
            doubtful=others[:LEAST_CONFIDENT],
        )
        clusters.append(card)
    return clusters


def commonest_classes(targets: Tensor, classes: list[str]) -> list[tuple[str, float]]:
    """At most 3, with their shares of the labelled images; targets: (size,), -1 if unknown."""
    counts = Counter(sorted(targets[targets >= 0].tolist()))
    return [(classes[label], count / counts.total()) for label, count in counts.most_common(CLASSES)]
