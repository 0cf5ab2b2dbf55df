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


class MLPHead(nn.Module):
    """A cluster head of TEMI (arXiv:2303.17896): features (B, D) to logits (B, K), which are cosines with one
    direction a cluster, times its gain, over the temperature."""

    temperature = 0.1

    def __init__(self, features_dim: int, num_clusters: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(features_dim, 512), nn.GELU(), nn.Linear(512, 256))
        for layer in self.mlp[::2]:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.weight = nn.Parameter(torch.randn(num_clusters, 256))  # directions: only they count
        self.gain = nn.Parameter(torch.ones(num_clusters))

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.normalize(self.mlp(features), dim=1)  # (B, 256)
        return F.linear(hidden, F.normalize(self.weight, dim=1)) * self.gain / self.temperature


class ClusterHeads(nn.ModuleList):
    """`num_heads` heads: features (B, D) to a list of logits (B, K). form: `linear`, computed by one matrix
    product, or `mlp`."""

    def __init__(self, features_dim: int, num_clusters: int, num_heads: int, form: str = "linear"):
        kind = {"linear": nn.Linear, "mlp": MLPHead}[form]
        super().__init__(kind(features_dim, num_clusters) for _ in range(num_heads))
        self.form = form

    def forward(self, features: Tensor) -> list[Tensor]:
        if self.form == "mlp":
            return [head(features) for head in self]
        weight = torch.cat([head.weight for head in self])  # (heads * K, D)
        bias = torch.cat([head.bias for head in self])
        return list(F.linear(features, weight, bias).chunk(len(self), dim=1))


class Standardize(nn.Module):
    """A fixed linear layer: features (B, D) to (B, d), of unit length, less their mean, along the d principal
    axes, scaled as a whole to unit standard deviation."""

    def __init__(self, features_dim: int, size: int):
        super().__init__()
        if size > features_dim:
            raise UserError(
                f"feature_pca {size} is more than the features' size: set it to at most {features_dim}"
            )
        self.register_buffer("weight", torch.zeros(size, features_dim))
        self.register_buffer("bias", torch.zeros(size))

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(F.normalize(features, dim=1), self.weight, self.bias)

    def fit(self, features: Tensor) -> None:
        """Set the layer from the training features (N, D)."""
        blocks = features.split(2**14)
        mean = sum(F.normalize(block, dim=1).double().sum(dim=0) for block in blocks) / len(features)  # (D,)
        centred = (F.normalize(block, dim=1).double() - mean for block in blocks)
        variances, axes = torch.linalg.eigh(sum(block.T @ block for block in centred) / len(features))
        if variances[-1] < 1e-12:  # rounding, in vectors of unit length
            raise UserError(
                f"the features of all {len(features)} images are the same: check the images and the weights"
            )
        size = len(self.weight)
        axes = axes[:, -size:].flip(1)  # (D, d), the largest variance first
        weight = axes.T / variances[-size:].clamp(min=0).mean().sqrt()
        self.weight.copy_(weight)
        self.bias.copy_(-weight @ mean)


class ClusteringModel(nn.Module):
    """Backbone and cluster heads: images to a list of logits (B, K), one for each head.

    standardize: between the two, nothing, or a `Standardize` to `feature_pca` values."""

    def __init__(
        self, backbone: nn.Module, num_clusters: int, num_heads: int, form="linear", feature_pca: int = 0
    ):
        super().__init__()
        self.backbone, dim = backbone, backbone.features_dim
        self.standardize = Standardize(dim, feature_pca) if feature_pca else nn.Identity()
        self.cluster_head = ClusterHeads(feature_pca or dim, num_clusters, num_heads, form)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.cluster_head(self.standardize(self.backbone(images)))

    def head(self, number: int) -> nn.Module:
        """One head alone: features of the backbone (B, D) to logits (B, K)."""
        return nn.Sequential(self.standardize, self.cluster_head[number])
