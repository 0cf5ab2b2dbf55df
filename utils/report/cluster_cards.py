"""What the report says of each cluster: size, confidence, nearest cluster, commonest classes, images."""

from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.arrays import floats
from utils.evaluate.clustering import prototypes
from utils.evaluate.label_free import confidence_histogram
from utils.report.canvas import labels_of

MOST_CONFIDENT, LEAST_CONFIDENT, CLASSES = 7, 8, 3  # shown of a cluster, beside its prototype


class Clustering(NamedTuple):
    """A clustering to show: probabilities (N, K), K >= 2, on the CPU, and features (N, D), not normalised."""

    dataset: Any
    probabilities: Tensor
    features: Tensor
    metrics: Mapping[str, Any]
    names: Mapping[int, str]  # cluster -> the name that a person gave it


def describe_clusters(clustering: Clustering) -> list[SimpleNamespace]:
    """What the card of each of the K clusters holds.

    confidence: mean over its images. histogram: number of images in each tenth of the confidences. cohesion:
    mean cosine of its features and their mean. nearest: the cluster of the most similar mean feature, and the
    cosine. classes: the 3 commonest, with their share of the labelled images. images: row numbers, the
    prototype first, then by falling confidence. doubtful: by rising confidence, none of them in `images`.
    An empty cluster has no images; its confidence, cohesion and nearest are None."""
    dataset, probabilities, *_ = clustering
    features, labels = floats(clustering.features), labels_of(dataset)
    confidence, predictions = probabilities.max(dim=1)  # (N,) each
    sizes = predictions.bincount(minlength=probabilities.shape[1])  # (K,)
    rising = confidence.argsort(stable=True)  # (N,)
    members = rising[predictions[rising].argsort(stable=True)].split(sizes.tolist())  # K of (size,)
    means = torch.stack([features[rows].double().mean(dim=0) for rows in members])  # (K, D), NaN if empty
    similarity = F.normalize(means, dim=1) @ F.normalize(means, dim=1).T  # (K, K)
    similarity.fill_diagonal_(-torch.inf)
    similarity[:, sizes == 0] = similarity[sizes == 0] = -torch.inf
    confident = prototypes(probabilities, features, companions=MOST_CONFIDENT)

    cards = []
    for k, rows in enumerate(members):
        cosines = F.cosine_similarity(features[rows].double(), means[k : k + 1], dim=1)  # (size,)
        similar, other = similarity[k].max(dim=0)
        images = confident.get(k, [])
        others = [row for row in rows[: LEAST_CONFIDENT + len(images)].tolist() if row not in images]
        known = Counter(sorted(labels[row] for row in rows.tolist() if labels[row]))
        card = {"number": k, "name": clustering.names.get(k) or f"cluster {k}", "size": len(rows)}
        card["confidence"] = confidence[rows].double().mean().item() if len(rows) else None
        card["histogram"] = confidence_histogram(probabilities[rows])
        card["cohesion"] = cosines.mean().item() if len(rows) else None
        card["nearest"] = (int(other), similar.item()) if similar.isfinite() else None
        card["classes"] = [(name, count / known.total()) for name, count in known.most_common(CLASSES)]
        cards.append(SimpleNamespace(**card, images=images, doubtful=others[:LEAST_CONFIDENT]))
    return cards
