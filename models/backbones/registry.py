"""The backbones by the config's key `backbone`, or by what stands before its colon. Adding one is one row."""

from collections.abc import Callable
from typing import NamedTuple

from models.backbones import features, timm_models, torchvision_models
from models.backbones.resnet import ResNet18, resnet50, stem_and_width


class Backbone(NamedTuple):
    """build: from the config, a module: normalised images (B, 3, H, W) to features (B, D), D being
    its attribute `features_dim`. plain_view: from the config, what `transformation_kwargs` are, unless
    given. hub: from the name, the weights that the backbone's library downloads."""

    build: Callable
    plain_view: Callable = lambda cfg: {}
    hub: Callable | None = None


BACKBONES = {
    "resnet18": Backbone(lambda cfg: ResNet18(*stem_and_width(cfg))),
    "resnet50": Backbone(lambda cfg: resnet50(*stem_and_width(cfg))),
    "timm": Backbone(timm_models.build, timm_models.plain_view, timm_models.hub),
    "torchvision": Backbone(torchvision_models.build, torchvision_models.plain_view, torchvision_models.hub),
    "features": Backbone(features.build, features.plain_view),
}


def backbone_of(cfg) -> Backbone:
    """The row of the config's backbone."""
    return BACKBONES[cfg.backbone.partition(":")[0]]


def is_from_library(cfg) -> bool:
    """Whether the backbone may be large: later steps refer to its file in place of a copy."""
    return ":" in cfg.backbone


def use_plain_view(cfg) -> None:
    """Give the config what its `transformation_kwargs` lack: the view that the backbone was trained for."""
    given = cfg.get("transformation_kwargs", {})
    cfg.transformation_kwargs = {**backbone_of(cfg).plain_view(cfg), **given}
