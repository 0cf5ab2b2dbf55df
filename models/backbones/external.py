"""What backbones from timm and from torchvision share: looking up a name, trying out the network, errors."""

import difflib
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from utils.errors import UserError


def known(backbone: str, name: str, names: Sequence[str]) -> str:
    """The name, if the library has it; else UserError with the nearest one."""
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0)[0]
        library = backbone.partition(":")[0]
        raise UserError(f"backbone {backbone:.200}: {library} has no such model; the nearest is {nearest}")
    return name


def checked(model: nn.Module, cfg, classifier: Iterable[str]) -> nn.Module:
    """The model with `features_dim`, which is tried out, and `classifier`, the layers of its weight file that
    are left out. Raises UserError if it does not take images of the config's size."""
    size = cfg.transformation_kwargs.crop_size
    try:
        with torch.no_grad():
            features = model.eval()(torch.zeros(1, 3, size, size))
        _, model.features_dim = features.shape
    except Exception as error:  # each network has its own way to refuse
        reason = " ".join(str(error).split())[:200]
        remedy = "give another transformation_kwargs.crop_size, or another backbone"
        raise UserError(
            f"{cfg.backbone} makes no features of images of {size} px ({reason}): {remedy}"
        ) from error
    for module in model.modules():
        if type(module).__name__ in ("Dropout", "StochasticDepth"):
            module.p = 0.0  # its random numbers would not be those of a resumed run
    model.classifier_layers = tuple(classifier)
    return model.train()


def not_from_hub(backbone: str, file: str, place: str, error: Exception) -> UserError:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
    remedy = f"fetch {file} from {place}, put it anywhere, and give weights=FILE"
    return UserError(f"weights=hub: {backbone} could not be downloaded ({reason}): {remedy}")
