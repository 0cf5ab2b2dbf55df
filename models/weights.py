"""Trained weights in files. Loading is strict: every tensor must fit by name and shape, or nothing is
loaded."""

import re
from typing import NamedTuple

from torch import Tensor, nn

from utils.errors import UserError
from utils.stages import SCRIPT_OF
from utils.storage.state_dicts import architecture_of, load_strictly, plain_names
from utils.storage.torch_files import read_file


class Weights(NamedTuple):
    """The content of a weight file.

    stage: `pretext`, `scan` or `selflabel`. state: tensors by plain name. head: the best one of a scan model,
    else 0. form: the kind of file, for the log."""

    stage: str
    state: dict[str, Tensor]
    head: int
    form: str


def read_weights(path, stage: str | None = None) -> Weights:
    """The weights in a model file or checkpoint, ours or a published one. Raises UserError if it holds no
    model of a stage, or one of another stage than `stage`."""
    content = read_file(path)
    state, best, form = content, None, "model file"
    if content.keys() == {"model", "head"}:
        state, best = content["model"], content["head"]
    elif {"model", "optimizer"} <= content.keys():
        state, best = content["model"], content.get("best_loss_head")
        form = f"checkpoint after epoch {content.get('epoch')}"
    state = plain_names(state, path)
    heads = sum(bool(re.fullmatch(r"cluster_head\.\d+\.weight", name)) for name in state)
    is_scan = best is not None or heads > 1
    if is_scan and (type(best) is not int or best not in range(heads)):
        raise UserError(
            f"{path} names head {best!r:.80} as the best of {heads}: give the model.pth.tar that "
            f"{SCRIPT_OF['scan']} wrote"
        )
    if heads:
        found = "scan" if is_scan else "selflabel"
    elif any(name.startswith(("contrastive_head.", "backbone.")) for name in state):
        found = "pretext"
    else:
        raise UserError(
            f"{path} holds no model of ours, but {architecture_of(state)}: give a model.pth.tar of a stage "
            "(moco.py reads backbones of others)"
        )
    if stage not in (None, found):
        raise UserError(
            f"{path} is a {found} model ({architecture_of(state)}), not a {stage} model: give the "
            f"model.pth.tar that {SCRIPT_OF[stage]} wrote"
        )
    return Weights(found, state, best or 0, form)


def load_whole(model: nn.Module, weights: Weights, path) -> str:
    """Load a whole model of the same stage; a pretext model whose weights have no contrastive head loses its
    own. Returns a line for the log, as the two functions below."""
    if weights.stage == "pretext" and not any(name.startswith("contrastive_head.") for name in weights.state):
        model.drop_head()
    load_strictly(model, weights.state, path)
    return f"loaded {len(weights.state)} tensors from {path} ({weights.form})"


def load_backbone(model: nn.Module, path) -> str:
    """Load the backbone of a pretext model, without its contrastive head."""
    state = read_weights(path, "pretext").state
    state = {name: value for name, value in state.items() if not name.startswith("contrastive_head.")}
    load_strictly(nn.ModuleDict({"backbone": model.backbone}), state, path)
    return f"loaded {len(state)} backbone tensors from {path}"


def load_best_head(model: nn.Module, path) -> str:
    """Load the backbone and the best head of a scan model, that as `cluster_head.0`."""
    weights = read_weights(path, "scan")
    state = {name: value for name, value in weights.state.items() if not name.startswith("cluster_head.")}
    best = f"cluster_head.{weights.head}."
    for name in weights.state:
        if name.startswith(best):
            state[name.replace(best, "cluster_head.0.")] = weights.state[name]
    load_strictly(model, state, path)
    return f"loaded {len(state)} tensors (best head: {weights.head}) from {path}"
