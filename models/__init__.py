"""`build_model`: the network that a config describes."""

from torch import nn

from models.backbones.resnet import ResNet18, resnet50
from models.heads import ClusteringModel, ContrastiveModel
from utils.console import say_once
from utils.errors import UserError

PUBLISHED_STEMS = {"cifar-10": "cifar", "cifar-20": "cifar", "stl-10": "stl"}
PUBLISHED_STEMS |= dict.fromkeys(("imagenet", "imagenet_50", "imagenet_100", "imagenet_200"), "imagenet")

CIFAR_SIDE, STL_SIDE = 48, 128  # pixels, of the largest views for each stem


def stem_for(cfg) -> str:
    """`model_kwargs.stem`; `auto` is the published rule by data set, and by crop size where none was published."""
    stem = cfg.model_kwargs.stem
    if stem != "auto":
        return stem
    if cfg.train_db_name in PUBLISHED_STEMS:
        return PUBLISHED_STEMS[cfg.train_db_name]
    size = cfg.transformation_kwargs.crop_size
    return "cifar" if size <= CIFAR_SIDE else "stl" if size <= STL_SIDE else "imagenet"


def build_model(cfg) -> nn.Module:
    """A ContrastiveModel for the pretext stages (`setup` simclr, moco), a ClusteringModel for scan and selflabel.

    Says so where views are too small for a stem that nobody named. Raises UserError where `width` does not fit the
    backbone."""
    stem, size = stem_for(cfg), cfg.transformation_kwargs.crop_size
    if stem == "imagenet" and size <= CIFAR_SIDE and cfg.model_kwargs.stem == "auto":
        say_once(
            f"warning: the imagenet stem divides the side of a view by 32 in all, so little is left of {size} px: "
            "model_kwargs.stem=cifar is for small views"
        )
    if cfg.backbone == "resnet18":
        backbone = ResNet18(stem, cfg.model_kwargs.width)
    elif cfg.model_kwargs.width == 64:
        backbone = resnet50(stem)
    else:
        raise UserError(
            f"model_kwargs.width {cfg.model_kwargs.width}: resnet50 exists at width 64 only; "
            "leave the key out or choose backbone: resnet18"
        )
    if cfg.setup in ("simclr", "moco"):
        return ContrastiveModel(backbone, cfg.model_kwargs.head, cfg.model_kwargs.features_dim)
    return ClusteringModel(backbone, cfg.num_classes, cfg.num_heads)
