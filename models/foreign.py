"""Backbones trained by others, read as pretext models: of MoCo, plain ResNets, of timm and torchvision."""

import torch
from torch import Tensor

from models.backbones.registry import backbone_of, is_from_library
from models.heads import ContrastiveModel
from models.weights import HEAD, Weights, read_weights
from utils.distributed import first_on_machine
from utils.errors import UserError
from utils.storage.state_dicts import plain_names
from utils.storage.torch_files import read_file

QUERY = "encoder_q."  # the part of MoCo that is trained; the published file holds nothing else


def read_pretrained(path) -> Weights:
    """A pretext model from MoCo's file, from a plain ResNet (torchvision's names, `fc` left out, so without a
    head) or from a pretext model of ours. Raises UserError for anything else."""
    content = read_file(path)
    state = plain_names(content.get("state_dict", content), path)
    if "conv1.weight" in state:
        counts = [name.replace("running_mean", "num_batches_tracked") for name in state]
        state = dict.fromkeys(counts, torch.tensor(0)) | state  # old PyTorch did not count batches
        names = {name: f"backbone.{name}" for name in state if name not in ("fc.weight", "fc.bias")}
    elif rest := [name for name in state if not name.startswith(QUERY)]:
        if "state_dict" not in content:
            return read_weights(path, "pretext")
        remedy = f"give module.{QUERY}* of MoCo alone, a plain ResNet, or a pretext model.pth.tar"
        raise UserError(f"{path} holds {len(rest)} other tensors, such as {', '.join(rest[:3])}: {remedy}")
    else:
        names = {k: k.replace(QUERY, "backbone.").replace("backbone.fc.", HEAD) for k in state}
    return Weights("pretext", {ours: state[name] for name, ours in names.items()})


def read_backbone(cfg, model: ContrastiveModel, source) -> Weights:
    """Weights for the backbone of `model`, which the config describes. source: a file or `hub`.

    Of a file of timm's or torchvision's, the classifier is left out. UserError as `read_pretrained`."""
    if str(source) == "hub":
        if backbone_of(cfg).hub is None:
            raise UserError(f"weights=hub is for timm:NAME and torchvision:NAME: give {cfg.backbone} a file")
        state = first_on_machine(lambda: backbone_of(cfg).hub(cfg.backbone))
    elif not is_from_library(cfg):
        return read_pretrained(source)
    else:
        state = plain_names(state_in(read_file(source)), source)
        if all(name.startswith("backbone.") for name in state):
            return Weights("pretext", state)  # a pretext model of ours
    left_out = tuple(f"{layer}." for layer in model.backbone.classifier_layers)
    return Weights("pretext", {f"backbone.{k}": v for k, v in state.items() if not k.startswith(left_out)})


def state_in(content: dict) -> dict:
    """The state dict in a file: `state_dict`, or the only mapping of tensors, under whatever name, or all of
    the file."""
    groups = [each for each in content.values() if isinstance(each, dict)]
    with_tensors = [each for each in groups if any(isinstance(value, Tensor) for value in each.values())]
    return content.get("state_dict", with_tensors[0] if len(with_tensors) == 1 else content)
