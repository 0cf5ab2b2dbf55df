"""Classification networks of torchvision as backbones, `torchvision:<name>`, without their last layer."""

from torch import Tensor, nn

from models.backbones.external import checked, known, not_from_hub
from utils.console import warnings_ignored
from utils.errors import UserError


def build(cfg) -> nn.Module:
    """The network, untrained, up to its last linear layer. Raises UserError if it has none."""
    torchvision, name = _torchvision(cfg.backbone)
    with warnings_ignored():  # of how a network is initialised, before its weights come
        model = torchvision.models.get_model(name, weights=None)
    if hasattr(model, "transform_input"):  # of Inception and GoogLeNet, whose weights were made so
        model.transform_input = True
    linear = [part for part, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UserError(f"backbone {cfg.backbone} ends in no linear layer: choose another one")
    parent, _, own = linear[-1].rpartition(".")
    setattr(model.get_submodule(parent), own, nn.Identity())
    return checked(model, cfg, linear[-1:])


def plain_view(cfg) -> dict:
    torchvision, name = _torchvision(cfg.backbone)
    view = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    size = cfg.get("transformation_kwargs", {}).get("crop_size", view.crop_size[0])
    return {
        "crop_size": size,
        "resize": size * view.resize_size[0] // view.crop_size[0],
        "interpolation": view.interpolation.value,
        "normalize": {"mean": list(view.mean), "std": list(view.std)},
    }


def hub(backbone: str) -> dict[str, Tensor]:
    """The weights that torchvision downloads, or finds in its cache. UserError if it does neither."""
    torchvision, name = _torchvision(backbone)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        return weights.get_state_dict(check_hash=True, weights_only=True)
    except Exception as error:  # of several kinds, by what is missing on the way
        raise not_from_hub(backbone, weights.url.rpartition("/")[2], weights.url, error) from error


def _torchvision(backbone: str) -> tuple:
    """The library, and the name of a model that it has."""
    import torchvision  # slow

    names = torchvision.models.list_models(module=torchvision.models)
    return torchvision, known(backbone, backbone.partition(":")[2], names)
