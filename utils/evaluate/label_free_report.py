"""Figures that describe clusters without labels, and the neighbors they are measured with."""

from contextlib import suppress
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from utils.console import say
from utils.errors import RunError, UserError
from utils.evaluate.label_free import (
    cluster_sizes,
    confidence_histogram,
    neighbor_agreement,
    scan_validation,
    silhouette,
)
from utils.neighbors.search import VAL_NEIGHBORS, load_neighbors, mine_neighbors
from utils.stages import NEIGHBORS
from utils.storage.files import verify_manifest


def judge_without_labels(
    probabilities: Tensor, features: Tensor, dataset, pretext_dir: str, knn_backend: str, cluster_prior=None
) -> dict:
    """SCAN's terms, neighbor agreement, silhouette, cluster sizes and confidences of a clustering.

    probabilities: (N, K); features: (N, D) of the backbone, not normalised. The neighbors are those of
    `pretext_dir` if they were mined from these images, else the nearest by the features. cluster_prior: see
    `scan_validation`."""
    predictions, figures = probabilities.argmax(dim=1), {}
    try:
        neighbors = neighbors_to_judge(dataset, features, pretext_dir, knn_backend)
        figures = scan_validation(probabilities, neighbors, cluster_prior)
        figures["neighbor_agreement"] = neighbor_agreement(predictions, neighbors)
    except UserError as error:  # features that cannot be mined
        say(f"figures of neighbors left out: {error}")
    if (score := silhouette(features, predictions)) is not None:
        figures["silhouette"] = score
    sizes, histogram = cluster_sizes(probabilities), confidence_histogram(probabilities)
    return figures | {"sizes": sizes, "confidence_histogram": histogram}


def neighbors_to_judge(dataset, features: Tensor, pretext_dir: str, knn_backend: str) -> Tensor:
    """int64 (N, T+1), column 0 the image itself; for the rest see `judge_without_labels`."""
    path = Path(pretext_dir, NEIGHBORS["val"])
    with suppress(RunError, UserError, OSError):
        manifest = verify_manifest(path)
        if manifest and manifest.get("images_sha256") == dataset.fingerprint:
            return load_neighbors(path, len(dataset))
    return nearest(features, VAL_NEIGHBORS, knn_backend)


def nearest(features: Tensor, topk: int, backend: str) -> Tensor:
    """The topk nearest images (all others, if they are fewer) by the cosine of features (N, D), as mined."""
    return mine_neighbors(F.normalize(features, dim=1), min(topk, len(features) - 1), backend)
