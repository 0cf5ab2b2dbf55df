"""The SimCLR loss, as SCAN's pretext task uses it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def simclr_loss(features: Tensor, temperature: float) -> Tensor:
    """NT-Xent (SimCLR, arXiv:2002.05709, eq. 1) with the first views alone as anchors.

    features: (B, 2, D), the two views of each image, used as they come: unit length is the model's business.
    Returns the mean over B of the cross-entropy of each first view's positive, the second view, against all other
    2B - 1 views, by inner product / temperature: a scalar in nats, ln(2B - 1) at chance.
    Raises ValueError for any other shape.
    """
    if features.ndim != 3 or features.shape[1] != 2:
        raise ValueError(
            f"features have shape {tuple(features.shape)}, expected (B, 2, D): two views of each image"
        )
    with torch.autocast(features.device.type, enabled=False):  # it would round the inner products
        first, second = features.float().unbind(dim=1)  # (B, D) each
        logits = first @ torch.cat([first, second]).T / temperature  # (B, 2B)
    logits = logits.fill_diagonal_(-torch.inf)  # a view is not compared with itself
    positives = torch.arange(len(first), 2 * len(first), device=features.device)  # (B,)
    return F.cross_entropy(logits, positives)


class SimCLRLoss(nn.Module):
    """`simclr_loss` at one temperature."""

    def __init__(self, temperature: float):
        super().__init__()
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        return simclr_loss(features, self.temperature)
