"""The start of linear heads on frozen features: clusters of k-means, as a soft assignment."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from utils.distributed import from_main
from utils.evaluate.kmeans import fit_kmeans
from utils.features import cached_features, pass_through

CONFIDENCE = 0.9  # the mean largest probability at the start; with 0.99 the gradients vanish
LOG_SCALES = (-30.0, 30.0)  # features may be of any size
IMAGES = 2000  # by which the scale is found


def prepare_heads(cfg, model: nn.Module, loader) -> None:
    """Fit the model's `standardize` to the features of the training images and start its heads by k-means,
    as the config says. loader: the training images in the plain view."""
    fits = cfg.augmentation_strategy == "plain" and model.cluster_head.form == "linear"
    start = cfg.get("head_start", "kmeans" if fits else "random")
    if "feature_pca" not in cfg and start == "random":
        return
    (features,) = cached_features(Path(cfg.pretext_dir), "features-train", model.backbone, loader)  # (N, D)
    if "feature_pca" in cfg:
        model.standardize.fit(features)
    if start == "kmeans":
        start_from_kmeans(
            model.cluster_head, pass_through(model.standardize, features, loader.device), cfg.seed
        )


def start_from_kmeans(heads: Iterable[nn.Linear], features: Tensor, seed: int) -> None:
    """Set each head by a k-means of its own, with one restart, of the features (N, D).

    With centres c_k the logits of x are s (<x, c_k> - |c_k|^2 / 2): the nearest centre has the largest. The
    scale s makes the mean largest probability of the first images 0.9."""
    for number, head in enumerate(heads):
        own_seed = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
        centres = from_main(centres_of, features, len(head.weight), own_seed)  # (K, D) float64
        weight, bias = centres, -centres.square().sum(dim=1) / 2
        scale = soft_scale(features[:IMAGES].double() @ weight.T + bias)
        with torch.no_grad():
            head.weight.copy_(scale * weight)
            head.bias.copy_(scale * bias)


def centres_of(features: Tensor, num_clusters: int, seed: int) -> Tensor:
    return torch.from_numpy(fit_kmeans(features, num_clusters, seed).cluster_centers_).double()


def soft_scale(logits: Tensor) -> float:
    """The factor with which logits (N, K) have CONFIDENCE, by bisection of its logarithm."""
    low, high = LOG_SCALES
    for _ in range(30):
        middle = (low + high) / 2
        is_soft = (np.exp(middle) * logits).softmax(dim=1).amax(dim=1).mean() < CONFIDENCE
        low, high = (middle, high) if is_soft else (low, middle)
    return float(np.exp(middle))
