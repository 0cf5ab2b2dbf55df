"""`build_model`: the network that a config describes."""

from torch import nn

from models.backbones.registry import BACKBONES
from models.batch_norm import over_all_processes
from models.heads import ClusteringModel, ContrastiveModel


def build_model(cfg) -> nn.Module:
    """A ContrastiveModel for `setup` simclr and moco, a ClusteringModel for scan and selflabel.

    Reads the published keys; `stem` and `width` of model_kwargs are optional. Raises UserError for a width
    that the backbone does not have."""
    kwargs = cfg.get("model_kwargs", {})
    stem = kwargs.get("stem", "auto")
    if stem == "auto":  # the published one of the data set; for other data sets, by crop size in pixels
        side = cfg.transformation_kwargs.crop_size
        published = (name for name in ("cifar", "stl", "imagenet") if cfg.train_db_name.startswith(name))
        stem = next(published, "cifar" if side <= 48 else "stl" if side <= 128 else "imagenet")
    backbone = BACKBONES[cfg.backbone](stem, kwargs.get("width", 64))
    if cfg.get("batch_norm") == "global":
        backbone = over_all_processes(backbone)
    if cfg.setup in ("simclr", "moco"):
        return ContrastiveModel(backbone, kwargs.head, kwargs.features_dim)
    return ClusteringModel(backbone, cfg.num_classes, cfg.num_heads)
