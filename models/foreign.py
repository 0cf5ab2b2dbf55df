"""Others' trained backbones, read as pretext models of ours: MoCo's files and plain ResNets."""

import torch

from models.weights import Weights, read_weights
from utils.errors import UserError
from utils.storage.state_dicts import describe, plain_names
from utils.storage.torch_files import read_file

QUERY = "encoder_q."  # MoCo's encoder that is trained; what else a training holds is left out of the published file
CLASSIFIER = ("fc.weight", "fc.bias")  # of a plain ResNet


def read_pretrained(path) -> Weights:
    """A pretext model from MoCo's file, from a plain ResNet's state dict (torchvision's names, its `fc` left out, so
    without a head), or from a pretext model of ours.

    Raises UserError for anything else, and for a MoCo file with more in it than the query encoder."""
    content = read_file(path)
    state = plain_names(content.get("state_dict", content), path)
    if any(name.startswith(QUERY) for name in state):
        return Weights("pretext", _from_moco(state, path), 0, "MoCo's file")
    if "conv1.weight" in state:
        norms = [name.removesuffix("running_mean") for name in state if name.endswith("running_mean")]
        state = {
            f"{norm}num_batches_tracked": torch.tensor(0) for norm in norms
        } | state  # older PyTorch: not counted
        backbone = {f"backbone.{name}": value for name, value in state.items() if name not in CLASSIFIER}
        return Weights("pretext", backbone, 0, "plain backbone")
    if "state_dict" in content:
        raise UserError(
            f"{path} holds under state_dict neither MoCo's module.{QUERY}* nor a plain backbone, but "
            f"{describe(state)}: give one of those, or a pretext model.pth.tar"
        )
    return read_weights(path, "pretext")


def _from_moco(state: dict, path) -> dict:
    if others := [name for name in state if not name.startswith(QUERY)]:
        raise UserError(
            f"{path} holds {len(others)} tensors beside MoCo's query encoder: {', '.join(others[:3])}; the published "
            f"file has none: save the tensors under module.{QUERY} alone and give those"
        )
    renamed = {}
    for name, value in state.items():
        name = name.removeprefix(QUERY)
        is_head = name.startswith("fc.")
        renamed[f"contrastive_head.{name.removeprefix('fc.')}" if is_head else f"backbone.{name}"] = value
    return renamed
