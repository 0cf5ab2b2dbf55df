"""What follows a backbone: a contrastive head in the pretext task, cluster heads after it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.errors import UserError


class ContrastiveModel(nn.Module):
    """Images to unit-length features (B, features_dim). head: `mlp`, `linear`, or None to have no head."""

    def __init__(self, backbone: nn.Module, head: str | None, features_dim: int = 0):
        super().__init__()
        self.backbone, dim = backbone, backbone.features_dim
        self.contrastive_head = nn.Identity()
        if head == "mlp":
            layers = nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, features_dim)
            self.contrastive_head = nn.Sequential(*layers)
        elif head == "linear":
            self.contrastive_head = nn.Linear(dim, features_dim)

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.contrastive_head(self.backbone(images)), dim=1)


def feature_layer(model: ContrastiveModel, layer: str) -> ContrastiveModel:
    """The model up to its contrastive `head` or to its `backbone`; UserError for a head that is not there."""
    if layer == "backbone":
        return ContrastiveModel(model.backbone, head=None)
    if isinstance(model.contrastive_head, nn.Identity):
        raise UserError("feature_layer is head, but these weights have none: set feature_layer=backbone")
    return model


class ClusterHeads(nn.ModuleList):
    """`num_heads` linear heads: features (B, D) to a list of logits (B, K), by one matrix product."""

    def __init__(self, features_dim: int, num_clusters: int, num_heads: int):
        super().__init__(nn.Linear(features_dim, num_clusters) for _ in range(num_heads))

    def forward(self, features: Tensor) -> list[Tensor]:
        weight = torch.cat([head.weight for head in self])  # (heads * K, D)
        bias = torch.cat([head.bias for head in self])
        return list(F.linear(features, weight, bias).chunk(len(self), dim=1))


class ClusteringModel(nn.Module):
    """Backbone and cluster heads: images to a list of logits (B, K), one for each head."""

    def __init__(self, backbone: nn.Module, num_clusters: int, num_heads: int):
        super().__init__()
        self.backbone = backbone
        self.cluster_head = ClusterHeads(backbone.features_dim, num_clusters, num_heads)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.cluster_head(self.backbone(images))
