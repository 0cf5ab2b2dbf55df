"""Numbers that judge a clustering or a set of neighbors: arrays in, plain Python out; no model, no config. What judges
a clustering without labels is in `utils/label_free.py`."""

import math

import torch
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor

from utils.arrays import floats, integers, share
from utils.evaluate.label_free import cluster_report

PROTOTYPE_CANDIDATES = 10  # most confident images of a cluster, among which its prototype is looked for


def clustering_metrics(
    predictions: ArrayLike | Tensor,
    targets: ArrayLike | Tensor | None,
    probabilities: ArrayLike | Tensor | None = None,
) -> dict:
    """How well the clusters (predictions, (N,)) agree with the classes (targets, (N,); images of -1 are left out).

    `ACC` pairs clusters and classes one to one (Hungarian matching; the pairs are `hungarian_match`); where one side
    is longer, its rest stays unmatched. Under the same matching, each class that has labelled images counting the same,
    `balanced ACC` is the mean recall and `macro-F1` the mean F1, of an unmatched class 0. `ACC many-to-one` gives every
    cluster its commonest class: it rises with the number of clusters, so never compare it with ACC. `NMI`, `AMI`, `ARI`
    as in scikit-learn, without any matching. `ACC Top-5`, only with probabilities (N, K): one of the 5 (or K) likeliest
    clusters is matched to the class. `labelled images`: how many, only where some are and some are not.
    There are K clusters, without probabilities as many as the largest prediction says.
    Returns {} for fewer than two classes. Raises ValueError if lengths differ or a prediction is none of the clusters.
    """
    if targets is None:
        return {}
    predictions, targets = integers(predictions), integers(targets)
    if predictions.shape != targets.shape:
        raise ValueError(f"{len(predictions)} predictions do not fit {len(targets)} targets")
    labelled = targets >= 0  # (N,)
    if len(targets[labelled].unique()) < 2:
        return {}
    num_clusters = int(predictions.max()) + 1
    if probabilities is not None:
        probabilities = floats(probabilities)
        num_clusters = probabilities.shape[1]
    if predictions.min() < 0 or predictions.max() >= num_clusters:
        raise ValueError(
            f"predictions reach from {predictions.min()} to {predictions.max()} for {num_clusters} clusters"
        )
    predictions, targets = predictions[labelled], targets[labelled]

    table = contingency_table(predictions, targets, num_clusters)  # (K, C)
    clusters, classes = linear_sum_assignment(table.numpy(), maximize=True)
    match = list(zip(clusters.tolist(), classes.tolist(), strict=True))
    recall, f1 = class_scores(table, clusters, classes)
    labelings = targets.numpy(), predictions.numpy()
    metrics = {} if labelled.all() else {"labelled images": len(targets)}
    metrics |= {
        "ACC": table[clusters, classes].sum().item() / len(targets),
        "balanced ACC": recall.mean().item(),
        "macro-F1": f1.mean().item(),
        "NMI": float(normalized_mutual_info_score(*labelings)),
        "AMI": float(adjusted_mutual_info_score(*labelings)),
        "ARI": float(adjusted_rand_score(*labelings)),
    }
    if probabilities is not None:
        likeliest = probabilities.topk(min(5, num_clusters), dim=1).indices[labelled]  # (N, 5)
        hits = (map_clusters(likeliest, match) == targets[:, None]).any(dim=1)  # (N,)
        metrics["ACC Top-5"] = share(hits)
    metrics["ACC many-to-one"] = table.amax(dim=1).sum().item() / len(targets)
    metrics["hungarian_match"] = match
    return metrics


def map_clusters(predictions: ArrayLike | Tensor, hungarian_match: list[tuple[int, int]]) -> Tensor:
    """The class each predicted cluster is matched to, int64 in the predictions' shape; -1 where it is unmatched."""
    predictions = integers(predictions)
    num_clusters = 1 + max([int(predictions.max()), *(cluster for cluster, _ in hungarian_match)])
    class_of = torch.full((num_clusters,), -1)  # (K,)
    for cluster, matched_class in hungarian_match:
        class_of[cluster] = matched_class
    return class_of[predictions]


def evaluate_clusters(probabilities: Tensor, targets: Tensor | None) -> dict:
    """`cluster_report`, and `clustering_metrics` as far as targets are known: what the stages and eval.py report."""
    return cluster_report(probabilities) | clustering_metrics(
        probabilities.argmax(dim=1), targets, probabilities
    )


def clustering_warnings(report: dict) -> list[str]:
    """What in a report of `evaluate_clusters` speaks of a clustering that failed, a sentence each."""
    found = []
    if report["largest_share"] > 0.9:
        found.append(
            f"one cluster holds {100 * report['largest_share']:.1f} % of the images: unless one class is as common, "
            "they have collapsed; train scan.py with a larger batch_size or entropy_weight"
        )
    if report.get("NMI", 1) < 0.05 and report["ACC"] > 0.5:
        found.append(
            f"ACC is high only because one class is common: it is {report['ACC']:.3f}, but NMI {report['NMI']:.3f}; "
            "look at balanced ACC and macro-F1"
        )
    if report["smallest_share"] == 0:
        found.append(
            f"used_clusters is {report['used_clusters']}, less than num_classes: the other clusters hold no image; "
            "train scan.py with a larger batch_size, or ask for fewer clusters"
        )
    return found


def neighbor_accuracy(neighbors: ArrayLike | Tensor, targets: ArrayLike | Tensor, topk: int) -> float:
    """Share of the first topk neighbors that have their anchor's label.

    neighbors: (N, T+1), column 0, the image itself, is left out; targets: (N,), pairs with a -1 on either side are
    left out; NaN if none is left. Raises ValueError for topk > T, which would quietly report fewer.
    """
    neighbors, targets = integers(neighbors), integers(targets)
    if topk > neighbors.shape[1] - 1:
        raise ValueError(
            f"topk is {topk}, but only {neighbors.shape[1] - 1} neighbors of each image were mined"
        )
    neighbor_targets, anchor_targets = (
        targets[neighbors[:, 1 : topk + 1]],
        targets[:, None],
    )  # (N, topk), (N, 1)
    labelled = (neighbor_targets >= 0) & (anchor_targets >= 0)
    return share((neighbor_targets == anchor_targets)[labelled])


def prototypes(
    probabilities: ArrayLike | Tensor, features: ArrayLike | Tensor, companions: int = 9
) -> dict[int, list[int]]:
    """Row numbers of the images that show what each cluster holds: its prototype, then the most confident others.

    probabilities: (N, K), features: (N, D), not normalised. The prototype is, of the 10 most confident images assigned
    to the cluster, the one nearest (Euclidean) to their mean feature; up to `companions` others follow by falling
    confidence. An empty cluster has no entry.
    """
    confidence, predictions = floats(probabilities).max(dim=1)  # (N,) each
    features = floats(features)
    by_confidence = confidence.argsort(descending=True, stable=True)  # (N,)
    by_cluster = by_confidence[
        predictions[by_confidence].argsort(stable=True)
    ]  # (N,), confident first in each cluster
    chosen = {}
    for cluster, members in enumerate(by_cluster.split(predictions.bincount().tolist())):
        if len(members) == 0:
            continue
        candidates = members[:PROTOTYPE_CANDIDATES].tolist()
        candidate_features = features[candidates]  # (10, D)
        distances = (candidate_features - candidate_features.mean(dim=0)).norm(dim=1)  # (10,)
        prototype = candidates[int(distances.argmin())]
        others = [row for row in members[: companions + 1].tolist() if row != prototype]
        chosen[cluster] = [prototype, *others[:companions]]
    return chosen


def kmeans_accuracy(
    features: ArrayLike | Tensor,
    eval_features: ArrayLike | Tensor,
    eval_targets: ArrayLike | Tensor,
    num_clusters: int,
    seed: int,
) -> float:
    """The baseline SCAN has to beat: k-means fitted on features (N, D), ACC of its clusters on eval_features (M, D);
    NaN where eval_targets name fewer than two classes."""
    kmeans = KMeans(num_clusters, n_init=5, random_state=seed).fit(floats(features).numpy())
    return clustering_metrics(kmeans.predict(floats(eval_features).numpy()), eval_targets).get(
        "ACC", math.nan
    )


def contingency_table(predictions: Tensor, targets: Tensor, num_clusters: int) -> Tensor:
    """How many images of each class each cluster holds, int64 (K, C), from (N,) clusters and (N,) classes."""
    num_classes = int(targets.max()) + 1
    pairs = predictions * num_classes + targets  # (N,)
    return pairs.bincount(minlength=num_clusters * num_classes).view(num_clusters, num_classes)


def class_scores(table: Tensor, clusters: ArrayLike, classes: ArrayLike) -> tuple[Tensor, Tensor]:
    """Recall and F1 of each class that has images, 0 where it is matched to no cluster: float64 (C,) or shorter.

    table: (K, C) as from `contingency_table`; clusters, classes: (min(K, C),), the matched pairs."""
    sizes = table.sum(dim=0)  # (C,)
    hits, predicted = torch.zeros(2, len(sizes), dtype=torch.float64)  # (C,) each
    hits[classes] = table[clusters, classes].double()
    predicted[classes] = table[clusters].sum(dim=1).double()
    present = sizes > 0
    return (hits / sizes)[present], (2 * hits / (sizes + predicted))[present]
