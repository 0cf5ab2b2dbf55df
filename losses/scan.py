"""The SCAN loss: an image and its neighbor agree on a cluster, and the clusters share the images."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class ScanTerms(NamedTuple):
    """Scalars in nats; total = consistency - entropy_weight * entropy."""

    total: Tensor
    consistency: Tensor
    entropy: Tensor


def cluster_entropy(mean_probs: Tensor, cluster_prior: Sequence[float] | None = None) -> Tensor:
    """-sum_k pbar_k log pbar_k, in nats, pbar = mean_probs (K,) floored at 1e-8: ln K for even clusters, else less.

    Under a cluster_prior, K positive numbers which divided by their sum are the wanted shares of the clusters, it is
    ln K - KL(pbar || prior) = -sum_k pbar_k log pbar_k + sum_k pbar_k log(K prior_k): ln K for those shares, else less,
    at times below 0; equal numbers give the entropy itself. Raises ValueError unless there are K of them.
    """
    mean_probs = mean_probs.clamp(min=1e-8)  # (K,)
    entropy = -(mean_probs * mean_probs.log()).sum(dim=-1)
    if cluster_prior is None:
        return entropy
    if len(cluster_prior) != mean_probs.shape[-1]:
        raise ValueError(f"cluster_prior has {len(cluster_prior)} numbers for {len(mean_probs)} clusters")
    prior = torch.tensor(cluster_prior, dtype=torch.float64)
    scaled = (prior.log() - prior.mean().log()).to(mean_probs, non_blocking=True)  # (K,), log(K prior_k)
    return entropy + (mean_probs * scaled).sum(dim=-1)


def scan_loss(
    anchor_logits: Tensor,
    neighbor_logits: Tensor,
    entropy_weight: float,
    cluster_prior: Sequence[float] | None = None,
) -> ScanTerms:
    """Semantic clustering loss (SCAN, arXiv:2005.12320, eq. 2), its inner product computed in log space.

    anchor_logits, neighbor_logits: (B, K), row i of both an image and its neighbor; p, q their softmax.
    consistency = mean_i -log <p_i, q_i>, the log bounded below by -100: saturated disagreement stays finite.
    entropy = -sum_k pbar_k log pbar_k, pbar = mean_i p_i of the anchors, floored at 1e-8; under a cluster_prior
    ln K - KL(pbar || prior), see `cluster_entropy`.
    The total is at least -entropy_weight * ln K. Raises ValueError if the two shapes are not one (B, K).
    """
    if anchor_logits.ndim not in (2, 3) or anchor_logits.shape != neighbor_logits.shape:
        shapes = f"{tuple(anchor_logits.shape)} and {tuple(neighbor_logits.shape)}"
        raise ValueError(f"anchor and neighbor logits have shapes {shapes}, expected one (B, K) for both")
    log_p = anchor_logits.float().log_softmax(dim=-1)
    log_q = neighbor_logits.float().log_softmax(dim=-1)
    consistency = -torch.logsumexp(log_p + log_q, dim=-1).clamp(min=-100).mean(dim=-1)
    entropy = cluster_entropy(log_p.exp().mean(dim=-2), cluster_prior)
    return ScanTerms(consistency - entropy_weight * entropy, consistency, entropy)


class SCANLoss(nn.Module):
    """`scan_loss` at one entropy weight and cluster prior."""

    def __init__(self, entropy_weight: float, cluster_prior: Sequence[float] | None = None):
        super().__init__()
        self.entropy_weight, self.cluster_prior = entropy_weight, cluster_prior

    def forward(self, anchor_logits: Tensor, neighbor_logits: Tensor) -> ScanTerms:
        return scan_loss(anchor_logits, neighbor_logits, self.entropy_weight, self.cluster_prior)

    def bounds(self, num_clusters: int) -> str:
        """A sentence for the log: how low `total` can get, and how low at weight 1, as in validation."""
        weight, name, ln = self.entropy_weight, f"ln {num_clusters}", math.log(num_clusters)
        return (
            f"loss = consistency - {weight:g} * entropy: a negative loss is normal; it cannot fall below "
            f"-{weight:g} {name} = {-weight * ln:.3f}, nor val/total_loss (weight 1) below -{name} = {-ln:.3f}"
        )
