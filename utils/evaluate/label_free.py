"""Metrics of a clustering without labels: arrays in, plain Python out."""

import torch
from numpy.typing import ArrayLike
from torch.nn import functional as F

from losses import cluster_entropy
from utils.arrays import floats, integers, share
from utils.console import warnings_ignored

PRODUCTS_AT_ONCE = 2**17  # numbers in a block of scan_validation: it stays in the processor's cache
SILHOUETTE_IMAGES = 3000  # the distances between them take a moment


def scan_validation(probabilities: ArrayLike, neighbors: ArrayLike, cluster_prior=None) -> dict[str, float]:
    """The SCAN loss that selects the model, without labels (arXiv:2005.12320, eq. 2, weight 1), in nats.

    probabilities: (N, K), neighbors: (N, T+1) row numbers, column 0 the image itself.
        consistency = mean over all N (T+1) pairs of -log <p_i, p_j>     (log bounded below by -100)
        entropy     = -sum_k pbar_k log pbar_k, pbar = mean_i p_i        (under a prior see `cluster_entropy`)
        total_loss  = consistency - entropy                              (at least -ln K)
    Computed on the probabilities' device, in blocks, so memory is linear in N."""
    probs = torch.as_tensor(probabilities).float()  # (N, K)
    neighbors = torch.as_tensor(neighbors).to(probs.device).long()  # (N, T+1)
    log_sum = usage = 0
    rows = max(1, PRODUCTS_AT_ONCE // (neighbors.shape[1] * probs.shape[1]))
    for anchors, others in zip(probs.split(rows), neighbors.split(rows), strict=True):
        products = anchors[:, None] * F.embedding(others, probs)  # (B, T+1, K), picks rows of probs
        agreement = products.sum(dim=2)  # (B, T+1), <p_i, p_j>
        log_sum = log_sum + agreement.log().clamp(min=-100).sum(dtype=torch.float64)
        usage = usage + anchors.sum(dim=0, dtype=torch.float64)  # (K,)
    consistency = -log_sum.item() / neighbors.numel()
    entropy = cluster_entropy(usage / len(probs), cluster_prior).item()
    return {"consistency": consistency, "entropy": entropy, "total_loss": consistency - entropy}


def cluster_sizes(probabilities: ArrayLike) -> list[int]:
    """How many images (probabilities, (N, K)) each of the K clusters holds by argmax."""
    probs = floats(probabilities)
    return probs.argmax(dim=1).bincount(minlength=probs.shape[1]).tolist()


def confidence_histogram(probabilities: ArrayLike) -> list[int]:
    """How many images (probabilities, (N, K)) have their maximum in [0, 0.1), [0.1, 0.2), ... [0.9, 1]."""
    confidence = floats(probabilities).amax(dim=1)  # (N,)
    return (10 * confidence).long().clamp(max=9).bincount(minlength=10).tolist()


def neighbor_agreement(predictions: ArrayLike, neighbors: ArrayLike) -> float:
    """Share of the pairs of an image and a neighbor that lie in one cluster; NaN without neighbors.

    predictions: (N,); neighbors: (N, T+1), column 0, the image itself, is left out."""
    predictions = integers(predictions)
    return share(predictions[integers(neighbors)[:, 1:]] == predictions[:, None])


@warnings_ignored()
def silhouette(features: ArrayLike, predictions: ArrayLike, seed: int = 0) -> float | None:
    """scikit-learn's mean silhouette, in [-1, 1], of clusters (predictions, (N,)) among features (N, D).

    The features are normalised here. Of more than 3,000 images, 3,000 drawn with the seed are taken. None if
    these have fewer than two clusters, or as many clusters as images."""
    from sklearn.metrics import silhouette_score

    features, predictions = floats(features), integers(predictions)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    drawn = order[:SILHOUETTE_IMAGES].sort().values
    if not 2 <= len(predictions[drawn].unique()) < len(drawn):
        return None
    return float(silhouette_score(F.normalize(features[drawn], dim=1).numpy(), predictions[drawn].numpy()))


def inertia(features: ArrayLike, predictions: ArrayLike) -> float:
    """The mean squared distance of features (N, D), normalised here, to the mean of their cluster, in [0, 1].

    predictions: (N,)."""
    features, predictions = F.normalize(floats(features), dim=1), integers(predictions)
    sizes = predictions.bincount().clamp(min=1)  # (K,)
    sums = torch.zeros(len(sizes), features.shape[1]).index_add_(0, predictions, features)
    # of unit vectors: 1 - |mean|^2, averaged over the images
    return max(0.0, 1 - (sums.double().square().sum(dim=1) / sizes).sum().item() / len(features))
