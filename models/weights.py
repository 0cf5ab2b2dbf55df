"""Trained weights in files, and what each stage loads from them. Every tensor must fit."""

import re
from typing import NamedTuple

from torch import Tensor, nn

from utils.errors import UserError
from utils.stages import SCRIPT_OF
from utils.storage.state_dicts import architecture_of, load_strictly, plain_names
from utils.storage.torch_files import read_file


class Weights(NamedTuple):
    """stage: `pretext`, `scan` or `selflabel`. head: the best one of a scan model, else 0."""

    stage: str
    state: dict[str, Tensor]
    head: int = 0


def read_weights(path, stage: str | None = None) -> Weights:
    """The weights in a model file or checkpoint, ours or published; UserError if they are not of `stage`."""
    content = read_file(path)
    state, best = content, None
    if content.keys() == {"model", "head"}:
        state, best = content["model"], content["head"]
    elif {"model", "optimizer"} <= content.keys():
        state, best = content["model"], content.get("best_loss_head")
    state = plain_names(state, path)
    heads = sum(bool(re.fullmatch(r"cluster_head\.\d+\.weight", name)) for name in state)
    is_scan = best is not None or heads > 1
    if is_scan and (type(best) is not int or best not in range(heads)):
        raise UserError(
            f"{path} is no whole scan model: it names head {best!r:.80} as the best of {heads}; give the "
            f"model.pth.tar that {SCRIPT_OF['scan']} wrote"
        )
    is_ours = heads or any(name.startswith(("contrastive_head.", "backbone.")) for name in state)
    found = "scan" if is_scan else "selflabel" if heads else "pretext"
    if stage not in (None, found) or not is_ours:
        fault = f"is a {found} model, not a {stage} model" if is_ours else "holds no model of ours"
        raise UserError(
            f"{path} {fault}: it has {architecture_of(state)}; give the model.pth.tar that "
            f"{SCRIPT_OF.get(stage, 'a stage')} wrote (moco.py reads others' backbones)"
        )
    return Weights(found, state, best or 0)


def load_whole(model: nn.Module, weights: Weights, path) -> str:
    """Load a whole model of the same stage, without its contrastive head if the weights have none.

    Returns a line for the log, as the functions below."""
    if weights.stage == "pretext" and not any(name.startswith("contrastive_head.") for name in weights.state):
        model.drop_head()
    load_strictly(model, weights.state, path)
    return f"loaded {len(weights.state)} tensors from {path}"


def load_backbone(model: nn.Module, path) -> str:
    """Load the backbone of a pretext model, without its contrastive head."""
    state = read_weights(path, "pretext").state
    state = {name: value for name, value in state.items() if not name.startswith("contrastive_head.")}
    load_strictly(nn.ModuleDict({"backbone": model.backbone}), state, path)
    return f"loaded {len(state)} backbone tensors from {path}"


def load_best_head(model: nn.Module, path) -> str:
    """Load the backbone and the best head of a scan model, that as `cluster_head.0`."""
    weights = read_weights(path, "scan")
    best = f"cluster_head.{weights.head}."
    names = [name for name in weights.state if name.startswith(best) or not name.startswith("cluster_head.")]
    state = {name.replace(best, "cluster_head.0."): weights.state[name] for name in names}
    load_strictly(model, state, path)
    return f"loaded {len(state)} tensors (best head: {weights.head}) from {path}"
