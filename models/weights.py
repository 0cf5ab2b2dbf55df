"""Trained weights in files, and what each stage loads from them. Every tensor must fit."""

import re
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from models.backbones.registry import is_from_library
from utils.errors import UserError
from utils.stages import MODEL, SCRIPT_OF
from utils.storage.files import sha256_of
from utils.storage.state_dicts import load_strictly, plain_names
from utils.storage.torch_files import read_file

HEAD = "contrastive_head."


class Weights(NamedTuple):
    """stage: `pretext`, `scan` or `selflabel`. head: the best one of a scan model, else 0."""

    stage: str
    state: dict[str, Tensor]
    head: int = 0


def read_weights(path, stage: str | None = None, pretext_dir: str = "") -> Weights:
    """The weights in a model file or checkpoint, ours or published; UserError if they are not of `stage`.

    A model on a library's frozen backbone only refers to it: its tensors are those in `pretext_dir`."""
    content = read_file(path)
    state = plain_names(content.get("model", content), path)
    if reference := content.get("backbone"):
        state |= _referred_to(reference, Path(pretext_dir, MODEL), path)
    best = content.get("head", content.get("best_loss_head"))
    heads = sum(bool(re.fullmatch(r"cluster_head\.\d+\.weight", name)) for name in state)
    found = "scan" if best is not None or heads > 1 else "selflabel" if heads else "pretext"
    fault = ""
    if not any(name.startswith("backbone.") for name in state):
        fault = "holds no model of ours"
    elif stage not in (None, found):
        fault = f"is a {found} model, not a {stage} model"
    elif found == "scan" and (type(best) is not int or best not in range(heads)):
        fault = f"names head {best!r:.80} as the best of {heads}"
    if fault:
        remedy = f"give the model.pth.tar that {SCRIPT_OF[stage or found]} wrote (for others' files: moco.py)"
        raise UserError(f"{path} {fault}; it has {', '.join(list(state)[:3])}...: {remedy}")
    return Weights(found, state, best or 0)


def scan_content(cfg, model: nn.Module, head: int, pretext: Path) -> dict:
    """What model.pth.tar of SCAN holds. The frozen backbone of a library is not copied: `pretext`, the file
    of step 1, has it."""
    state = model.state_dict()
    if not (cfg.update_cluster_head_only and is_from_library(cfg)):
        return {"model": state, "head": head}
    own = {name: value for name, value in state.items() if not name.startswith("backbone.")}
    backbone = {"name": cfg.backbone, "sha256": sha256_of(pretext)}
    return {"model": own, "head": head, "backbone": backbone}


def _referred_to(reference: dict[str, str], file: Path, path) -> dict[str, Tensor]:
    """The backbone in a file of step 1, if it is the one that a model was trained on; else UserError."""
    if not file.is_file() or sha256_of(file) != reference["sha256"]:
        made = f"{reference['name']}, in a {MODEL} of step 1 with SHA-256 {reference['sha256'][:12]}..."
        raise UserError(
            f"{path} needs its backbone, {made}, which is not {file}: name its folder, pretext_dir=..."
        )
    return {k: v for k, v in read_weights(file, "pretext").state.items() if not k.startswith(HEAD)}


def load_whole(model: nn.Module, weights: Weights, path) -> str:
    """Load a whole model of the same stage, without its contrastive head if the weights have none."""
    if weights.stage == "pretext" and not any(name.startswith(HEAD) for name in weights.state):
        model.contrastive_head = nn.Identity()
    return load_strictly(model, weights.state, path)


def load_backbone(model: nn.Module, path) -> str:
    """Load the backbone of a pretext model, without its contrastive head."""
    state = read_weights(path, "pretext").state
    state = {name: value for name, value in state.items() if not name.startswith(HEAD)}
    return load_strictly(nn.ModuleDict({"backbone": model.backbone}), state, path)


def load_best_head(model: nn.Module, path, pretext_dir: str = "") -> str:
    """Load the backbone and the best head of a scan model, that as `cluster_head.0`."""
    weights = read_weights(path, "scan", pretext_dir)
    best = f"cluster_head.{weights.head}."
    names = [name for name in weights.state if name.startswith(best) or not name.startswith("cluster_head.")]
    state = {name.replace(best, "cluster_head.0."): weights.state[name] for name in names}
    return f"{load_strictly(model, state, path)} (best head: {weights.head})"
