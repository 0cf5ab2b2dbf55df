"""The self-labelling loss: confident clusters of the weak views are the classes of the strong views."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConfidenceTerms(NamedTuple):
    loss: Tensor  # a scalar in nats
    n_kept: Tensor  # the number of confident images in the batch, an int64 scalar


def confidence_based_ce(
    weak_logits: Tensor, strong_logits: Tensor, threshold: float, apply_class_balancing: bool
) -> ConfidenceTerms:
    """Cross-entropy on confident pseudo-labels (SCAN, arXiv:2005.12320, fine-tuning through self-labeling).

    Logits: (B, K), row i of both is one image. Its pseudo-label is the argmax of the weak probabilities; the
    row is kept where their maximum is > threshold. No gradient reaches weak_logits.
    loss = sum(w l) / sum(w) over kept rows, 0 without any. l: cross-entropy of the strong logits; w = 1, or
    with class balancing n_kept / (kept rows of that cluster). Raises ValueError if the shapes differ."""
    if weak_logits.ndim != 2 or weak_logits.shape != strong_logits.shape:
        shapes = f"{tuple(weak_logits.shape)} and {tuple(strong_logits.shape)}"
        raise ValueError(f"weak and strong logits have shapes {shapes}, expected one shape (B, K)")
    confidence, pseudo_labels = weak_logits.detach().float().softmax(dim=1).max(dim=1)  # (B,) each
    kept = confidence > threshold  # (B,); a mask, as a selection would make the GPU wait for its size
    n_kept = kept.sum()
    weights = kept.float()  # (B,)
    if apply_class_balancing:
        counts = weights.new_zeros(weak_logits.shape[1]).scatter_add(0, pseudo_labels, weights)  # (K,)
        weights = weights * n_kept / counts[pseudo_labels].clamp(min=1)
    losses = F.cross_entropy(strong_logits.float(), pseudo_labels, reduction="none")  # (B,)
    losses = torch.where(kept, losses, 0.0)  # 0 times an infinite loss would be NaN
    loss = (weights * losses).sum() / weights.sum().clamp(min=1)  # the sum is 0, or at least 1
    return ConfidenceTerms(loss, n_kept)


class ConfidenceBasedCE(nn.Module):
    def __init__(self, threshold: float, apply_class_balancing: bool):
        super().__init__()
        self.threshold, self.apply_class_balancing = threshold, apply_class_balancing

    def forward(self, weak_logits: Tensor, strong_logits: Tensor) -> ConfidenceTerms:
        return confidence_based_ce(weak_logits, strong_logits, self.threshold, self.apply_class_balancing)
