"""The SimCLR loss, as SCAN's pretext task uses it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def simclr_loss(features: Tensor, temperature: float) -> Tensor:
    """NT-Xent (SimCLR, arXiv:2002.05709, eq. 1) with only the first views as anchors, a scalar in nats.

    features: (B, 2, D), two views of each image, not normalised here. The mean over B of the cross-entropy of
    the second view against all other 2B - 1 views, by inner product / temperature (chance: ln(2B - 1)).
    Raises ValueError for any other shape."""
    if features.ndim != 3 or features.shape[1] != 2:
        raise ValueError(f"features have shape {tuple(features.shape)}, expected (B, 2, D)")
    with torch.autocast(features.device.type, enabled=False):  # it would round the inner products
        first, second = features.float().unbind(dim=1)  # (B, D) each
        logits = first @ torch.cat([first, second]).T / temperature  # (B, 2B)
    logits = logits.fill_diagonal_(-torch.inf)  # a view is not compared with itself
    return F.cross_entropy(logits, torch.arange(len(first), 2 * len(first), device=features.device))


class SimCLRLoss(nn.Module):
    def __init__(self, temperature: float):
        super().__init__()
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        return simclr_loss(features, self.temperature)
