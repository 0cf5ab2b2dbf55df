"""Backbones trained by others, read as pretext models: MoCo's files and plain ResNets."""

import torch

from models.weights import Weights, read_weights
from utils.errors import UserError
from utils.storage.state_dicts import architecture_of, plain_names
from utils.storage.torch_files import read_file

QUERY = "encoder_q."  # the part of MoCo that is trained; the published file holds nothing else
CLASSIFIER = ("fc.weight", "fc.bias")  # of a plain ResNet


def read_pretrained(path) -> Weights:
    """A pretext model from MoCo's file, from a plain ResNet (torchvision's names, `fc` left out, so without a
    head) or from a pretext model of ours. Raises UserError for anything else."""
    content = read_file(path)
    state = plain_names(content.get("state_dict", content), path)
    if any(name.startswith(QUERY) for name in state):
        return Weights("pretext", _from_moco(state, path))
    if "conv1.weight" in state:
        counts = [name.replace("running_mean", "num_batches_tracked") for name in state]
        state = (
            dict.fromkeys(set(counts) - state.keys(), torch.tensor(0)) | state
        )  # old PyTorch did not count
        plain = {name: value for name, value in state.items() if name not in CLASSIFIER}
        return Weights("pretext", {f"backbone.{name}": value for name, value in plain.items()})
    if "state_dict" in content:
        raise UserError(
            f"{path} holds {architecture_of(state)} under state_dict: give MoCo's file (module.{QUERY}*), a "
            "plain ResNet, or a pretext model.pth.tar"
        )
    return read_weights(path, "pretext")


def _from_moco(state: dict, path) -> dict:
    if others := [name for name in state if not name.startswith(QUERY)]:
        raise UserError(
            f"{path} holds {len(others)} tensors beside MoCo's query encoder: {', '.join(others[:3])}; save "
            f"the tensors under module.{QUERY} alone and give those"
        )
    ours = [name.replace(QUERY, "backbone.").replace("backbone.fc.", "contrastive_head.") for name in state]
    return dict(zip(ours, state.values(), strict=True))
