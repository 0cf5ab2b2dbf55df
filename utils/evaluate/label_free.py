"""Numbers that judge a clustering where nothing is labelled: arrays in, plain Python out; no model, no config."""

from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike
from sklearn.metrics import silhouette_score
from torch import Tensor
from torch.nn import functional as F

from losses import cluster_entropy

PRODUCTS_AT_ONCE = 2**17  # of scan_validation: so many stay in the cache of the processor
SILHOUETTE_IMAGES = 2000  # whose distances, each to each, take a moment


def scan_validation(
    probabilities: ArrayLike | Tensor,
    neighbors: ArrayLike | Tensor,
    cluster_prior: Sequence[float] | None = None,
) -> dict[str, float]:
    """The SCAN loss that selects the model (arXiv:2005.12320, eq. 2, entropy weight 1), in nats; no label is used.

    probabilities: (N, K), neighbors: (N, T+1) row numbers, column 0 the image itself. `consistency` is the mean of
    -log <p_i, p_j> over all N (T+1) pairs, themselves included, the log bounded below by -100; `entropy` that of the
    mean over N, or `cluster_entropy` under a prior; `total_loss` = consistency - entropy, at least -ln K. Runs where
    the probabilities are and copies none of them as a whole.
    """
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


def cluster_report(probabilities: ArrayLike | Tensor) -> dict[str, float]:
    """What the clusters (probabilities, (N, K)) look like without labels.

    `used_clusters`: those with at least one image by argmax; `effective_clusters`: exp of the entropy of the shares;
    `smallest_share`, `largest_share`: of the N images, over all K clusters; `mean_confidence`: mean of the maxima.
    """
    probs = torch.as_tensor(probabilities).float()  # (N, K)
    confidence, predictions = probs.max(dim=1)  # (N,) each
    counts = predictions.bincount(minlength=probs.shape[1])  # (K,)
    shares = counts.double() / len(predictions)  # (K,)
    return {
        "used_clusters": int((counts > 0).sum()),
        "effective_clusters": torch.special.entr(shares).sum().exp().item(),
        "smallest_share": shares.min().item(),
        "largest_share": shares.max().item(),
        "mean_confidence": confidence.double().mean().item(),
    }


def confidence_histogram(probabilities: ArrayLike | Tensor) -> list[int]:
    """How many images (probabilities, (N, K)) have their maximum in [0, 0.1), [0.1, 0.2), ... [0.9, 1]."""
    confidence = torch.as_tensor(probabilities).float().amax(dim=1)  # (N,)
    return (10 * confidence).long().clamp(max=9).bincount(minlength=10).tolist()


def cluster_sizes(probabilities: ArrayLike | Tensor) -> list[int]:
    """How many images (probabilities, (N, K)) each of the K clusters holds by argmax."""
    probs = torch.as_tensor(probabilities)  # (N, K)
    return probs.argmax(dim=1).bincount(minlength=probs.shape[1]).tolist()


def neighbor_agreement(predictions: ArrayLike | Tensor, neighbors: ArrayLike | Tensor) -> float:
    """Share of the pairs of an image and a neighbor that lie in one cluster; NaN without neighbors.

    predictions: (N,); neighbors: (N, T+1), column 0, the image itself, is left out."""
    predictions = torch.as_tensor(predictions)
    others = torch.as_tensor(neighbors).to(predictions.device).long()[:, 1:]  # (N, T)
    return (predictions[others] == predictions[:, None]).double().mean().item()


def silhouette(features: ArrayLike | Tensor, predictions: ArrayLike | Tensor, seed: int = 0) -> float | None:
    """scikit-learn's mean silhouette, in [-1, 1], of the clusters (predictions, (N,)) among unit-length features.

    features: (N, D), normalised here. More than 2,000 images are judged by 2,000 of them, drawn with the seed. None
    where these have fewer than two clusters, or a cluster for each image."""
    features, predictions = torch.as_tensor(features).cpu().float(), torch.as_tensor(predictions).cpu()
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    drawn = order[:SILHOUETTE_IMAGES].sort().values
    if not 2 <= len(predictions[drawn].unique()) < len(drawn):
        return None
    return float(silhouette_score(F.normalize(features[drawn], dim=1).numpy(), predictions[drawn].numpy()))
