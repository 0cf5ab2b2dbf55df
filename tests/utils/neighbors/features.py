"""Features to search in, and the answer of a slow search."""

import math

import torch
from torch.nn import functional as F


def unit_features(count=40, dim=8, seed=0):
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def brute_force(features, topk):
    """The image itself, then the others by falling inner product in float64."""
    similarity = (features.double() @ features.double().T).fill_diagonal_(math.inf)
    return similarity.argsort(dim=1, descending=True)[:, : topk + 1]
