"""The SCAN loss: an image and its neighbor share a cluster, and the clusters share the images."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

Prior = Sequence[float] | None  # K positive numbers, the wanted shares of the clusters in any unit


class ScanTerms(NamedTuple):
    total: Tensor  # consistency - entropy_weight * entropy; all in nats, scalars or (H,) for H heads
    consistency: Tensor
    entropy: Tensor


def scan_loss(
    anchor_logits: Tensor, neighbor_logits: Tensor, entropy_weight: float, cluster_prior: Prior = None
) -> ScanTerms:
    """The SCAN loss (arXiv:2005.12320, eq. 2), with inner products in log space.

    Logits: (B, K), or (H, B, K) for H heads. Row i of both is an image and its neighbor; p, q: their softmax.
    consistency = mean_i -log <p_i, q_i>, each log clamped at -100; entropy: `cluster_entropy` of mean_i p_i.
    Raises ValueError if the shapes differ."""
    if anchor_logits.ndim not in (2, 3) or anchor_logits.shape != neighbor_logits.shape:
        shapes = f"{tuple(anchor_logits.shape)} and {tuple(neighbor_logits.shape)}"
        raise ValueError(f"logits have shapes {shapes}, expected one shape, (B, K) or (H, B, K)")
    log_p = anchor_logits.float().log_softmax(dim=-1)  # (..., B, K)
    log_q = neighbor_logits.float().log_softmax(dim=-1)
    log_agreement = torch.logsumexp(log_p + log_q, dim=-1)  # (..., B), log <p_i, q_i>
    consistency = -log_agreement.clamp(min=-100).mean(dim=-1)
    entropy = cluster_entropy(log_p.exp().mean(dim=-2), cluster_prior)
    return ScanTerms(consistency - entropy_weight * entropy, consistency, entropy)


def cluster_entropy(mean_probs: Tensor, cluster_prior: Prior = None) -> Tensor:
    """-sum_k pbar_k log pbar_k in nats, pbar = mean_probs (..., K) floored at 1e-8; see also `prior_term`."""
    mean_probs = mean_probs.clamp(min=1e-8)
    entropy = -(mean_probs * mean_probs.log()).sum(dim=-1)
    return entropy if cluster_prior is None else entropy + prior_term(mean_probs, cluster_prior)


def prior_term(mean_probs: Tensor, cluster_prior: Sequence[float]) -> Tensor:
    """sum_k pbar_k log(K prior_k); with the entropy: ln K - KL(pbar || prior). ValueError if not of K."""
    if len(cluster_prior) != mean_probs.shape[-1]:
        raise ValueError(f"cluster_prior: {len(cluster_prior)} numbers for {mean_probs.shape[-1]} clusters")
    prior = torch.tensor(cluster_prior, dtype=torch.float64)
    log_ratios = (prior.log() - prior.mean().log()).to(mean_probs, non_blocking=True)  # (K,), log(K prior_k)
    return (mean_probs * log_ratios).sum(dim=-1)


class SCANLoss(nn.Module):
    def __init__(self, entropy_weight: float, cluster_prior: Prior = None):
        super().__init__()
        self.entropy_weight, self.cluster_prior = entropy_weight, cluster_prior

    def forward(self, anchor_logits: Tensor, neighbor_logits: Tensor) -> ScanTerms:
        return scan_loss(anchor_logits, neighbor_logits, self.entropy_weight, self.cluster_prior)

    def bounds(self, num_clusters: int) -> str:
        """The lowest possible losses, for the log."""
        weight, ln = self.entropy_weight, math.log(num_clusters)
        minima = f"-{weight:g} ln {num_clusters} = {-weight * ln:.3f}, of val/total_loss {-ln:.3f}"
        return f"loss = consistency - {weight:g} * entropy may be negative; its minimum is {minima}"
