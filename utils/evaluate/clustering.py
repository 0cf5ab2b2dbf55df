"""Metrics of a clustering or of neighbors, most by labels: arrays in, plain Python out."""

import math

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from utils.arrays import floats, integers, share
from utils.console import warnings_ignored
from utils.evaluate.label_free import cluster_sizes

MODULES = ("scipy.optimize", "sklearn.metrics")  # that metrics need: slow to import
PROTOTYPE_CANDIDATES = 10  # most confident images of a cluster, one of which is its prototype


@warnings_ignored()
def clustering_metrics(predictions: ArrayLike, targets: ArrayLike | None, probabilities=None) -> dict:
    """Agreement of clusters (predictions, (N,)) with classes (targets, (N,); images of -1 are left out).

    ACC: share of images whose cluster is matched to their class, one to one (Hungarian method,
        `hungarian_match`; some clusters or classes stay unmatched if one side has more).
    balanced ACC, macro-F1: mean recall and F1 of the classes under that matching, 0 if unmatched.
    NMI, AMI, ARI: as in scikit-learn; they need no matching.
    ACC Top-5: with probabilities (N, K), one of the 5 likeliest clusters is matched to the class.
    ACC many-to-one: a cluster counts as its commonest class. It tends to rise with K, unlike ACC.
    labelled images: their number, if some are labelled and some are not.
    Without probabilities K is the largest prediction + 1. Returns {} for fewer than two classes."""
    from scipy.optimize import linear_sum_assignment
    from sklearn import metrics as sklearn_metrics

    predictions, targets = integers(predictions), integers([] if targets is None else targets)
    labelled = targets >= 0  # (N,)
    classes = targets[labelled].unique()
    if len(classes) < 2:
        return {}
    num_clusters = int(predictions.max()) + 1 if probabilities is None else floats(probabilities).shape[1]
    predictions, targets = predictions[labelled], targets[labelled]

    shape = num_clusters, int(classes.max()) + 1
    table = (predictions * shape[1] + targets).bincount(minlength=math.prod(shape)).view(shape)  # (K, C)
    pairs = linear_sum_assignment(table.numpy(), maximize=True)
    match = [(int(cluster), int(label)) for cluster, label in zip(*pairs, strict=True)]
    _, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
        targets, map_clusters(predictions, match), labels=classes, average="macro", zero_division=0
    )
    metrics = {} if labelled.all() else {"labelled images": len(targets)}
    metrics |= {
        "ACC": table[pairs].sum().item() / len(targets),
        "balanced ACC": float(recall),
        "macro-F1": float(f1),
        "NMI": float(sklearn_metrics.normalized_mutual_info_score(targets, predictions)),
        "AMI": float(sklearn_metrics.adjusted_mutual_info_score(targets, predictions)),
        "ARI": float(sklearn_metrics.adjusted_rand_score(targets, predictions)),
    }
    if probabilities is not None:
        likeliest = floats(probabilities).topk(min(5, num_clusters), dim=1).indices[labelled]  # (N, 5)
        metrics["ACC Top-5"] = share((map_clusters(likeliest, match) == targets[:, None]).any(dim=1))
    metrics["ACC many-to-one"] = table.amax(dim=1).sum().item() / len(targets)
    metrics["hungarian_match"] = match
    return metrics


def map_clusters(predictions: ArrayLike, hungarian_match: list[tuple[int, int]]) -> Tensor:
    """The class each predicted cluster is matched to, int64 in the predictions' shape; -1 if unmatched."""
    predictions = integers(predictions)
    class_of = dict(hungarian_match)
    return torch.tensor([class_of.get(k, -1) for k in range(int(predictions.max()) + 1)])[predictions]


def evaluate_clusters(probabilities: Tensor, targets: Tensor | None) -> dict:
    """What clusters (probabilities, (N, K)) look like and, if targets are known, `clustering_metrics`.

    effective_clusters: exp of the entropy of the clusters' shares of the images."""
    shares = torch.tensor(cluster_sizes(probabilities)).double() / len(probabilities)  # (K,)
    return {
        "used_clusters": int((shares > 0).sum()),
        "effective_clusters": torch.special.entr(shares).sum().exp().item(),
        "smallest_share": shares.min().item(),
        "largest_share": shares.max().item(),
        "mean_confidence": share(floats(probabilities).amax(dim=1)),
    } | clustering_metrics(probabilities.argmax(dim=1), targets, probabilities)


def clustering_warnings(report: dict) -> list[str]:
    """Signs of a failed clustering in a report of `evaluate_clusters`, a sentence each."""
    largest, acc, nmi = report["largest_share"], report.get("ACC", 0), report.get("NMI", 1)
    collapse = (
        f"one cluster holds {largest:.1%} of the images: unless a class is as common, they have collapsed; "
        "train scan.py with a larger batch_size or entropy_weight, or a lower optimizer_kwargs.lr"
    )
    common = f"ACC {acc:.3f} is high only as a class is common (NMI {nmi:.3f}): see balanced ACC and macro-F1"
    empty = (
        f"used_clusters is {report['used_clusters']}, less than num_classes, the others are empty: train "
        "scan.py with a larger batch_size, or ask for fewer clusters"
    )
    signs = {collapse: largest > 0.9, common: acc > 0.5 and nmi < 0.05, empty: report["smallest_share"] == 0}
    return [warning for warning, is_there in signs.items() if is_there]


def neighbor_accuracy(neighbors: ArrayLike, targets: ArrayLike, topk: int) -> float:
    """Share of the first topk neighbors that have their anchor's label.

    neighbors: (N, T+1), column 0, the image itself, is left out; targets: (N,), pairs with a -1 on either
    side are left out; NaN if no pair is left."""
    neighbors, targets = integers(neighbors), integers(targets)
    others, anchors = targets[neighbors[:, 1 : topk + 1]], targets[:, None]  # (N, topk), (N, 1)
    return share((others == anchors)[(others >= 0) & (anchors >= 0)])


def prototypes(probabilities: ArrayLike, features: ArrayLike, companions: int = 9) -> dict[int, list[int]]:
    """Row numbers of the images that represent each cluster: its prototype, then the most confident others.

    probabilities: (N, K), features: (N, D), not normalised. The prototype is the one of the 10 most confident
    images of the cluster that is nearest (Euclidean) to their mean feature; up to `companions` others follow
    by falling confidence. An empty cluster has no entry."""
    confidence, predictions = floats(probabilities).max(dim=1)  # (N,) each
    features = floats(features)
    order = confidence.argsort(descending=True, stable=True)  # (N,)
    order = order[predictions[order].argsort(stable=True)]  # (N,), by cluster, then by falling confidence
    chosen = {}
    for cluster, members in enumerate(order.split(predictions.bincount().tolist())):
        if len(members) > 0:
            candidates = features[members[:PROTOTYPE_CANDIDATES]]  # (10, D)
            prototype = int(members[(candidates - candidates.mean(dim=0)).norm(dim=1).argmin()])
            others = [row for row in members[: companions + 1].tolist() if row != prototype]
            chosen[cluster] = [prototype, *others[:companions]]
    return chosen
