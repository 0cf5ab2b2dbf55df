"""Metrics of clusters without labels, and the neighbors that they need."""

from contextlib import suppress
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from utils.console import finite, say
from utils.distributed import from_main
from utils.errors import RunError, UserError
from utils.evaluate import label_free
from utils.neighbors.search import VAL_NEIGHBORS, load_neighbors, mine_neighbors
from utils.stages import NEIGHBORS
from utils.storage.files import verify_manifest


def judge_without_labels(
    probabilities: Tensor, features: Tensor, dataset, pretext_dir: str, knn_backend: str, cluster_prior=None
) -> dict:
    """SCAN's terms, neighbor agreement, silhouette, cluster sizes and confidences of a clustering.

    probabilities: (N, K); features: (N, D) of the backbone, not normalised. The neighbors are those of
    `pretext_dir` if they were mined from these images, else the nearest by the features."""
    predictions, figures = probabilities.argmax(dim=1), {}
    neighbors = from_main(mined_from, dataset, Path(pretext_dir, NEIGHBORS["val"]))
    try:
        if neighbors is None:
            neighbors = nearest(features, VAL_NEIGHBORS, knn_backend)
        figures = label_free.scan_validation(probabilities, neighbors, cluster_prior)
        figures["neighbor_agreement"] = label_free.neighbor_agreement(predictions, neighbors)
    except UserError as error:  # features that cannot be mined
        say(f"metrics of neighbors left out: {error}")
    if (score := label_free.silhouette(features, predictions)) is not None:
        figures["silhouette"] = score
    figures["sizes"] = label_free.cluster_sizes(probabilities)
    return finite(figures) | {"confidence_histogram": label_free.confidence_histogram(probabilities)}


def mined_from(dataset, path: Path) -> Tensor | None:
    """The neighbors in a file, if they were mined from these images; damaged ones are not used."""
    with suppress(RunError, UserError, OSError):
        if (verify_manifest(path) or {}).get("images_sha256") == dataset.fingerprint:
            return load_neighbors(path, len(dataset))
    return None


def nearest(features: Tensor, topk: int, backend: str) -> Tensor:
    """The topk nearest images (all others, if they are fewer) by the cosine of features (N, D), as mined."""
    return mine_neighbors(F.normalize(features, dim=1), min(topk, len(features) - 1), backend)
