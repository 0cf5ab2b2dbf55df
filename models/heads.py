"""What a backbone carries: a contrastive head in the pretext task, cluster heads after it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.errors import UserError


class ContrastiveModel(nn.Module):
    """Backbone and projection: images to unit-length features (B, features_dim). head: `mlp` or `linear`."""

    def __init__(self, backbone: nn.Module, head: str, features_dim: int):
        super().__init__()
        dim = backbone.features_dim
        self.backbone = backbone
        if head == "mlp":
            self.contrastive_head = nn.Sequential(
                nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, features_dim)
            )
        else:
            self.contrastive_head = nn.Linear(dim, features_dim)

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.contrastive_head(self.backbone(images)), dim=1)

    def drop_head(self) -> None:
        """For weights that have none: the features are those of the backbone, unit-length (B, D)."""
        self.contrastive_head = nn.Identity()


class BackboneFeatures(nn.Module):
    """Images to unit-length backbone features (B, D)."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.backbone(images), dim=1)


def feature_layer(model: ContrastiveModel, layer: str) -> nn.Module:
    """Images to unit-length features: of the contrastive `head`, or of the `backbone` before it. Raises UserError where
    there is no head."""
    if layer == "head" and isinstance(model.contrastive_head, nn.Identity):
        raise UserError(
            "feature_layer is head, but these weights have no contrastive head: set feature_layer=backbone"
        )
    return model if layer == "head" else BackboneFeatures(model.backbone)


class ClusterHeads(nn.ModuleList):
    """`num_heads` linear heads on pooled features (B, D): a list of logits (B, K), from one matrix product."""

    def __init__(self, features_dim: int, num_clusters: int, num_heads: int):
        super().__init__(nn.Linear(features_dim, num_clusters) for _ in range(num_heads))

    def forward(self, features: Tensor) -> list[Tensor]:
        weight = torch.cat([head.weight for head in self])  # (heads * K, D)
        bias = torch.cat([head.bias for head in self])
        return list(F.linear(features, weight, bias).chunk(len(self), dim=1))


class ClusteringModel(nn.Module):
    """Backbone and `num_heads` linear cluster heads: images to a list of logits (B, K), one for each head."""

    def __init__(self, backbone: nn.Module, num_clusters: int, num_heads: int):
        super().__init__()
        self.backbone = backbone
        self.cluster_head = ClusterHeads(backbone.features_dim, num_clusters, num_heads)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.cluster_head(self.backbone(images))
