"""Trained weights in files. When they are read, every tensor must fit by name and shape, or nothing is loaded."""

import io
import warnings
from pathlib import Path

import torch
from torch import nn

from utils.errors import UserError
from utils.files import check_recorded

MADE_BY = {"pretext": "simclr.py", "scan": "scan.py", "selflabel": "selflabel.py"}


def to_bytes(content: dict) -> bytes:
    """Tensors and plain Python types as a PyTorch file; equal content gives equal bytes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def read_file(path) -> dict:
    """As `read_tensors`, of a file that must be whole. Raises RunError where a record beside it says it is not."""
    if not Path(path).is_file():
        raise UserError(
            f"{path} not found: run the stage that writes it (--restart if it is finished) or mend the path"
        )
    check_recorded(Path(path))
    return read_tensors(path)


def read_tensors(path) -> dict:
    """The content of a weight file or checkpoint, on the CPU. Nothing but tensors and plain types is read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch explains a bad file at length
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and zipfile raise a dozen kinds for a bad file
        raise UserError(
            f"{path} ({Path(path).stat().st_size} bytes) cannot be read: it is damaged, no PyTorch file, or holds more "
            "than tensors and plain values; nothing in it was run; put the right file there or make it anew"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{path} holds no named weights but a {type(content).__name__}: give a model.pth.tar")
    return content


def stage_of(content: dict, path) -> str:
    """`pretext`, `scan` or `selflabel`: which stage a model file comes from, by what is in it."""
    if content.keys() == {"model", "head"} and isinstance(content["model"], dict):
        head, heads = content["head"], sum(str(name).startswith("cluster_head.") for name in content["model"]) // 2
        if type(head) is not int or not 0 <= head < heads:
            raise UserError(
                f"{path} names head {head!r} as its best, but holds {heads} heads: it is no whole scan model; give the "
                f"model.pth.tar that {MADE_BY['scan']} wrote"
            )
        return "scan"
    if any(name.startswith("contrastive_head.") for name in content):
        return "pretext"
    if any(name.startswith("cluster_head.") for name in content):
        return "selflabel"
    if "optimizer" in content:
        raise UserError(f"{path} is a checkpoint for a restart: give the model.pth.tar beside it")
    raise UserError(f"{path} holds no model of ours: there is neither a contrastive head nor a cluster head in it")


def read_model(path, stage: str) -> dict:
    """The content of the model file of one stage. Raises UserError if it comes from another stage."""
    content = read_file(path)
    found = stage_of(content, path)
    if found != stage:
        raise UserError(
            f"{path} is a {found} model, not a {stage} model: give the model.pth.tar that {MADE_BY[stage]} wrote"
        )
    return content


def load_strictly(module: nn.Module, state: dict, path) -> None:
    """Load `state` into `module`. Raises UserError with the first names when one is missing, left over or misshapen."""
    own = module.state_dict()
    wrong = [f"missing {name}" for name in own if name not in state]
    wrong += [f"left over {name}" for name in state if name not in own]
    shapes = {name: getattr(value, "shape", None) for name, value in state.items()}
    wrong += [
        f"{name} is {'no tensor' if shapes[name] is None else tuple(shapes[name])}, expected {tuple(own[name].shape)}"
        for name in own
        if name in state and shapes[name] != own[name].shape
    ]
    if wrong:
        raise UserError(
            f"{path} does not fit the model of the config ({len(wrong)} of {len(own)} tensors): "
            f"{'; '.join(wrong[:3])}; check backbone, model_kwargs, num_classes and num_heads"
        )
    module.load_state_dict(state)


def load_backbone(model: nn.Module, path) -> int:
    """Load the backbone of a pretext model file, leaving its contrastive head; returns how many tensors."""
    content = read_model(path, "pretext")
    state = {name: value for name, value in content.items() if not name.startswith("contrastive_head.")}
    backbone = {name.removeprefix("backbone."): value for name, value in state.items()}
    load_strictly(model.backbone, backbone, path)
    return len(backbone)


def load_best_head(model: nn.Module, path) -> int:
    """Load a scan model file with its best head alone, as `cluster_head.0`; returns which head that was."""
    content = read_model(path, "scan")
    head = content["head"]
    state = {name: value for name, value in content["model"].items() if not name.startswith("cluster_head.")}
    for part in ("weight", "bias"):
        state[f"cluster_head.0.{part}"] = content["model"][f"cluster_head.{head}.{part}"]
    load_strictly(model, state, path)
    return head
