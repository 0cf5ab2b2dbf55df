"""The SCAN loss: an image and its neighbor agree on a cluster, and the clusters share the images."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class ScanTerms(NamedTuple):
    """Scalars in nats; total = consistency - entropy_weight * entropy."""

    total: Tensor
    consistency: Tensor
    entropy: Tensor


def scan_loss(anchor_logits: Tensor, neighbor_logits: Tensor, entropy_weight: float) -> ScanTerms:
    """Semantic clustering loss (SCAN, arXiv:2005.12320, eq. 2), its inner product computed in log space.

    anchor_logits, neighbor_logits: (B, K), row i of both an image and its neighbor; p, q their softmax.
    consistency = mean_i -log <p_i, q_i>, the log bounded below by -100: saturated disagreement stays finite.
    entropy = -sum_k pbar_k log pbar_k, pbar = mean_i p_i of the anchors, floored at 1e-8.
    The total is at least -entropy_weight * ln K. Raises ValueError if the two shapes are not one (B, K).
    """
    if anchor_logits.ndim != 2 or anchor_logits.shape != neighbor_logits.shape:
        shapes = f"{tuple(anchor_logits.shape)} and {tuple(neighbor_logits.shape)}"
        raise ValueError(f"anchor and neighbor logits have shapes {shapes}, expected one (B, K) for both")
    log_p = anchor_logits.float().log_softmax(dim=1)  # (B, K)
    log_q = neighbor_logits.float().log_softmax(dim=1)  # (B, K)
    consistency = -torch.logsumexp(log_p + log_q, dim=1).clamp(min=-100).mean()
    mean_p = log_p.exp().mean(dim=0).clamp(min=1e-8)  # (K,)
    entropy = -(mean_p * mean_p.log()).sum()
    return ScanTerms(consistency - entropy_weight * entropy, consistency, entropy)


class SCANLoss(nn.Module):
    """`scan_loss` at one entropy weight."""

    def __init__(self, entropy_weight: float):
        super().__init__()
        self.entropy_weight = entropy_weight

    def forward(self, anchor_logits: Tensor, neighbor_logits: Tensor) -> ScanTerms:
        return scan_loss(anchor_logits, neighbor_logits, self.entropy_weight)
