"""Backbones of the library timm, `timm:<name>`, without their classifier."""

import contextlib
import math

from torch import Tensor, nn

from models.backbones.external import checked, known, not_from_hub
from utils.errors import needed


def build(cfg) -> nn.Module:
    """The network, untrained. Vision transformers take images of other sizes than they were trained on."""
    timm, name = _timm(cfg.backbone)
    model = None
    with contextlib.suppress(TypeError):  # other networks do not know the option
        model = timm.create_model(name, num_classes=0, dynamic_img_size=True)
    model = model or timm.create_model(name, num_classes=0)
    classifier = timm.get_pretrained_cfg(name).classifier or ()
    return checked(model, cfg, (classifier,) if isinstance(classifier, str) else classifier)


def plain_view(cfg) -> dict:
    timm, name = _timm(cfg.backbone)
    view = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    size = cfg.get("transformation_kwargs", {}).get("crop_size", view["input_size"][1])
    return {
        "crop_size": size,
        "resize": max(size, math.floor(size / view["crop_pct"])),
        "interpolation": "bilinear" if view["interpolation"] == "bilinear" else "bicubic",
        "normalize": {"mean": list(view["mean"]), "std": list(view["std"])},
    }


def hub(backbone: str) -> dict[str, Tensor]:
    """The weights that timm downloads, or finds in its cache. UserError if it does neither."""
    timm, name = _timm(backbone)
    try:
        return timm.create_model(name, num_classes=0, pretrained=True).state_dict()
    except Exception as error:  # of a dozen kinds, by what is missing on the way
        made = timm.get_pretrained_cfg(name)
        file, place = "its file", made.url or "those who made it"
        if made.hf_hub_id:
            file, place = "model.safetensors", f"the repository {made.hf_hub_id} of the Hugging Face hub"
        raise not_from_hub(backbone, file, place, error) from error


def _timm(backbone: str) -> tuple:
    """The library, and the name of a model that it has, which may end in a tag: of its weights."""
    needed("timm")
    import timm

    name = backbone.partition(":")[2]
    architecture = known(backbone, name.partition(".")[0], timm.list_models())
    return timm, known(backbone, name, [architecture, *timm.list_models(architecture, include_tags=True)])
