"""`build_model`: the network that a config describes."""

from torch import nn

from models.backbones.registry import BACKBONES
from models.heads import ClusteringModel, ContrastiveModel

PUBLISHED_STEMS = {"cifar-10": "cifar", "cifar-20": "cifar", "stl-10": "stl"}
PUBLISHED_STEMS |= dict.fromkeys(("imagenet", "imagenet_50", "imagenet_100", "imagenet_200"), "imagenet")

CIFAR_SIDE, STL_SIDE = 48, 128  # pixels: the largest views for each stem


def stem_for(data_set: str, crop_size: int) -> str:
    """The published rule by data set; by crop size (pixels) for a data set without a published model."""
    by_size = "cifar" if crop_size <= CIFAR_SIDE else "stl" if crop_size <= STL_SIDE else "imagenet"
    return PUBLISHED_STEMS.get(data_set, by_size)


def build_model(cfg) -> nn.Module:
    """A ContrastiveModel for `setup` simclr and moco, a ClusteringModel for scan and selflabel.

    Reads the published keys; `stem` and `width` of model_kwargs are optional. Raises UserError for a width
    that the backbone does not have."""
    kwargs = cfg.get("model_kwargs", {})
    stem = kwargs.get("stem", "auto")
    if stem == "auto":
        stem = stem_for(cfg.train_db_name, cfg.transformation_kwargs.crop_size)
    backbone = BACKBONES[cfg.backbone](stem, kwargs.get("width", 64))
    if cfg.setup in ("simclr", "moco"):
        return ContrastiveModel(backbone, kwargs.head, kwargs.features_dim)
    return ClusteringModel(backbone, cfg.num_classes, cfg.num_heads)
