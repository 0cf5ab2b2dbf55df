"""The features of step 1: what its backbone, which later steps may train, makes of the images."""

from pathlib import Path

import torch
from torch import Tensor

from models import build_model
from models.weights import load_backbone
from utils.errors import RunError, UserError
from utils.features import cached_features, extract_features
from utils.stages import MODEL


def features_of_step_1(cfg, **loaders) -> list[Tensor] | None:
    """The features (N, D) of the `train`, `val` or `new` images by the backbone in `pretext_dir`, for each
    loader; None if no backbone that fits is there. Those of new images are not cached.

    cfg: of a later step."""
    model, folder = build_model(cfg), Path(cfg.pretext_dir)
    try:
        load_backbone(model, folder / MODEL)
    except (UserError, RunError):
        return None
    features = []
    for split, loader in loaders.items():
        backbone = model.backbone.to(loader.device, memory_format=torch.channels_last)
        if split == "new":
            features.append(extract_features(backbone, loader))
        else:
            features += cached_features(folder, f"features-{split}", backbone, loader)
    return features
