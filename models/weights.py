"""Trained weights in files. When they are read, every tensor must fit by name and shape, or nothing is loaded."""

import re
from typing import NamedTuple

from torch import Tensor, nn

from utils.errors import UserError
from utils.stages import SCRIPT_OF
from utils.storage.state_dicts import describe, in_short, load_strictly, plain_names
from utils.storage.torch_files import read_file


class Weights(NamedTuple):
    """What a file of weights holds.

    stage: `pretext`, `scan` or `selflabel`. state: tensors by name, without what DataParallel and torch.compile put
    into the names. head: the best one of a scan model, else 0. form: `model file`, or which checkpoint."""

    stage: str
    state: dict[str, Tensor]
    head: int
    form: str


def read_weights(path, stage: str | None = None) -> Weights:
    """The weights in a model file or a checkpoint, ours or a published one. Raises UserError if they are of no stage,
    or of another `stage` than asked for."""
    content = read_file(path)
    state, best, is_scan, form = content, 0, False, "model file"
    if content.keys() == {"model", "head"}:
        state, best, is_scan = content["model"], content["head"], True
    elif {"model", "optimizer"} <= content.keys():
        state, best, is_scan = content["model"], content.get("best_loss_head", 0), "best_loss_head" in content
        form = f"checkpoint after epoch {in_short(content.get('epoch'))}"
    state = plain_names(state, path)
    heads = sum(bool(re.fullmatch(r"cluster_head\.\d+\.weight", name)) for name in state)
    if is_scan and (type(best) is not int or not 0 <= best < heads):
        raise UserError(
            f"{path} names head {in_short(best)} as its best, but holds {heads} heads: it is no whole scan model; "
            f"give the model.pth.tar that {SCRIPT_OF['scan']} wrote"
        )
    if heads > 1 and not is_scan:
        raise UserError(
            f"{path} holds {heads} heads and does not say which is the best ({describe(state)}): give the "
            f"model.pth.tar that {SCRIPT_OF['scan']} wrote"
        )
    if heads:
        found = "scan" if is_scan else "selflabel"
    elif any(name.startswith(("contrastive_head.", "backbone.")) for name in state):
        found = "pretext"
    else:
        raise UserError(
            f"{path} holds no model of ours: there is neither a contrastive head nor a cluster head in it, but "
            f"{describe(state)}; give a model.pth.tar of a stage (moco.py reads others' backbones)"
        )
    if stage not in (None, found):
        raise UserError(
            f"{path} is a {found} model, not a {stage} model ({describe(state)}): give the model.pth.tar that "
            f"{SCRIPT_OF[stage]} wrote"
        )
    return Weights(found, state, best, form)


def load_whole(model: nn.Module, weights: Weights, path) -> str:
    """Load all of a model of the same stage; returns what was loaded, in words. A pretext model whose weights have no
    contrastive head goes on without one."""
    if weights.stage == "pretext" and not any(name.startswith("contrastive_head.") for name in weights.state):
        model.drop_head()
    load_strictly(model, weights.state, path)
    return f"loaded {count_backbone(model)} of {count_backbone(model)} backbone tensors from {path} ({weights.form})"


def count_backbone(model: nn.Module) -> int:
    return len(model.backbone.state_dict())


def load_backbone(model: nn.Module, path) -> int:
    """Load the backbone of a pretext model, leaving its contrastive head; returns how many tensors."""
    state = read_weights(path, "pretext").state
    state = {name: value for name, value in state.items() if not name.startswith("contrastive_head.")}
    load_strictly(nn.ModuleDict({"backbone": model.backbone}), state, path)
    return count_backbone(model)


def load_best_head(model: nn.Module, path) -> int:
    """Load a scan model with its best head alone, as `cluster_head.0`; returns which head that was."""
    weights = read_weights(path, "scan")
    state = {name: value for name, value in weights.state.items() if not name.startswith("cluster_head.")}
    best = f"cluster_head.{weights.head}."
    state |= {
        f"cluster_head.0.{name.removeprefix(best)}": value
        for name, value in weights.state.items()
        if name.startswith(best)
    }
    load_strictly(model, state, path)
    return weights.head
