"""`build_model`: the network that a config describes; `use_plain_view`: the view that it takes."""

from torch import nn

from models.backbones.registry import backbone_of, is_from_library, use_plain_view
from models.batch_norm import over_all_processes
from models.heads import ClusteringModel, ContrastiveModel
from utils.stages import STAGES

__all__ = ["build_model", "is_from_library", "use_plain_view"]


def build_model(cfg) -> nn.Module:
    """A ContrastiveModel for step 1, without a head for `setup` pretrained; else a ClusteringModel.

    Reads the published keys; others are optional. Raises UserError for a width, a name or a crop size that
    the backbone does not have."""
    backbone, kwargs = backbone_of(cfg).build(cfg), cfg.get("model_kwargs", {})
    if cfg.get("batch_norm") == "global":
        backbone = over_all_processes(backbone)
    if STAGES[cfg.setup].folder == "pretext":
        return ContrastiveModel(backbone, kwargs.get("head"), kwargs.get("features_dim", 0))
    form, pca = cfg.get("head_form", "linear"), cfg.get("feature_pca", 0)
    return ClusteringModel(backbone, cfg.num_classes, cfg.num_heads, form, pca)
