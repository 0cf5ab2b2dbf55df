"""The backbone `features`: images come as features that someone else has computed."""

import torch
from torch import Tensor, nn

from utils.storage.arrays import open_features


class Features(nn.Module):
    """Features (B, D) as they are. `size` makes it a model with a tensor to save and to compare."""

    def __init__(self, features_dim: int):
        super().__init__()
        self.features_dim = features_dim
        self.register_buffer("size", torch.tensor(features_dim))

    def forward(self, features: Tensor) -> Tensor:
        return features


def build(cfg) -> nn.Module:
    return Features(open_features(cfg.folder.features).shape[1])


def plain_view(cfg) -> dict:
    """Of the pictures in figures: the features are taken as they are."""
    return {"crop_size": 128, "normalize": {"mean": [0.0] * 3, "std": [1.0] * 3}}
