"""k-means, the baseline and the start of SCAN's heads."""

import math
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from utils.arrays import evenly_spaced, floats
from utils.console import warnings_ignored
from utils.errors import UserError
from utils.evaluate.clustering import clustering_metrics
from utils.storage.arrays import open_features

LARGE = 1e10  # images x feature size x clusters; beyond this k-means learns from batches
ENOUGH = 2**17  # of so many images, evenly spaced


@warnings_ignored()
def fit_kmeans(features: ArrayLike, num_clusters: int, seed: int, restarts: int = 1):
    """scikit-learn's k-means of features (N, D), begun by k-means++; of a large set by batches of images."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    features = floats(sample(features, num_clusters)).numpy()
    options = {"n_clusters": num_clusters, "n_init": restarts, "random_state": seed}
    if features.size * num_clusters > LARGE:  # with reassignment a large cluster may take the others' images
        return MiniBatchKMeans(batch_size=4096, max_iter=10, reassignment_ratio=0, **options).fit(features)
    return KMeans(**options).fit(features)


def sample(features: ArrayLike, num_clusters: int) -> Tensor:
    """The features (N, D), or ENOUGH of a large set, evenly spaced."""
    features = torch.as_tensor(features)
    is_large = features.numel() * num_clusters > LARGE
    return features[evenly_spaced(ENOUGH, len(features))] if is_large else features


def kmeans_accuracy(features, eval_features, eval_targets, num_clusters: int, seed: int) -> float:
    """The baseline for SCAN: k-means fitted on features (N, D), ACC of its clusters on eval_features (M, D).

    NaN if eval_targets, (M,), have fewer than two classes."""
    kmeans = fit_kmeans(features, num_clusters, seed, restarts=5)
    clusters = kmeans.predict(floats(eval_features).numpy())
    return clustering_metrics(clusters, eval_targets).get("ACC", math.nan)


def kmeans_centres(features: Tensor, num_clusters: int, seed: int) -> Tensor:
    """The centres of k-means on features (N, D), normalised here, best of 5 restarts: float32 (K, D)."""
    unit = F.normalize(sample(features, num_clusters), dim=1)
    fitted = fit_kmeans(unit, num_clusters, seed, restarts=5)
    return floats(fitted.cluster_centers_)


def read_centres(path: Path, size: int) -> Tensor | None:
    """The centres (K, D) in a file that SCAN left; None if there are none of this feature size D."""
    with suppress(UserError):
        centres = torch.from_numpy(np.array(open_features(path)))
        return centres if centres.shape[1] == size else None
    return None


def nearest_centre(features: Tensor, centres: Tensor) -> Tensor:
    """The nearest of the centres (K, D) for each of the features (N, D), normalised here: int64 (N,)."""
    features, centres = F.normalize(floats(features), dim=1), floats(centres)
    return (features @ centres.T - centres.square().sum(dim=1) / 2).argmax(dim=1)
