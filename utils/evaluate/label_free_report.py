"""What is said of clusters without labels, and the neighbors that it is said by."""

from contextlib import suppress
from pathlib import Path

import torch
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


def judge_without_labels(cfg, dataset, probabilities: torch.Tensor, features: torch.Tensor) -> dict:
    """Figures of clusters that need no label, from (N, K) probabilities and (N, D) backbone features: SCAN's terms,
    agreement of neighbors, how apart the clusters lie, their sizes and the confidences."""
    predictions, figures = probabilities.argmax(dim=1), {}
    try:
        neighbors = neighbors_to_judge(cfg, dataset, features)
        figures = scan_validation(
            probabilities, neighbors, cfg.get("criterion_kwargs", {}).get("cluster_prior")
        )
        figures["neighbor_agreement"] = neighbor_agreement(predictions, neighbors)
    except UserError as error:
        say(f"no figures of neighbors: {error}")
    if (tightness := silhouette(features, predictions)) is not None:
        figures["silhouette"] = tightness
    figures |= {
        "sizes": cluster_sizes(probabilities),
        "confidence_histogram": confidence_histogram(probabilities),
    }
    return figures


def neighbors_to_judge(cfg, dataset, features: torch.Tensor) -> torch.Tensor:
    """Neighbors by which clusters are judged without labels, int64 (N, T + 1), column 0 the image itself: those of the
    pretext task, where it mined these very images; else the nearest by features (N, D).

    Raises UserError for features that cannot be mined."""
    path = Path(cfg.pretext_dir, NEIGHBORS["val"])
    with suppress(RunError, UserError, OSError):
        record = verify_manifest(path)
        if record and record.get("images_sha256") == dataset.fingerprint:
            return load_neighbors(path, len(dataset))
    return nearest(features, VAL_NEIGHBORS, cfg.knn_backend)


def nearest(features: torch.Tensor, topk: int, backend: str) -> torch.Tensor:
    """The topk most similar images (fewer where there are not so many) by the cosine of their features (N, D)."""
    return mine_neighbors(F.normalize(features, dim=1), min(topk, len(features) - 1), backend)
