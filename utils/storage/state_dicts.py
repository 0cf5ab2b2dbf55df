"""State dicts: plain names, and loading in which every tensor must fit by name and shape."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import UserError

WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.")  # of DataParallel and torch.compile


def plain_names(state: Any, path) -> dict[str, Any]:
    """The state dict without `module.` (DataParallel) and `_orig_mod.` (torch.compile) in its names. Raises UserError
    if it is none, or if two names become the same."""
    if not isinstance(state, dict):
        raise UserError(f"{path} holds no named weights but a {type(state).__name__}: give a model.pth.tar")
    plain = {}
    for name, value in state.items():
        if not isinstance(name, str) or not name.isprintable():
            raise UserError(
                f"{path} holds no named weights: {in_short(name)} is no name; give a model.pth.tar"
            )
        short = WRAPPERS.sub("", name)
        if short in plain:
            raise UserError(
                f"{path} holds weights twice ({short}), with and without a wrapper's prefix: give a file of one model"
            )
        plain[short] = value
    return plain


def in_short(value: Any) -> str:
    """Whatever a file holds, in one line."""
    return " ".join(repr(value)[:80].split())


def _shape(value: Any) -> tuple[int, ...] | None:
    """None for what is no dense tensor of real numbers."""
    if not isinstance(value, Tensor) or value.is_meta or value.is_nested or value.layout != torch.strided:
        return None
    return tuple(value.shape) if value.is_floating_point() or value.dtype == torch.int64 else None


def describe(state: dict[str, Any]) -> str:
    """What network a state dict seems to be of."""
    shapes = {str(name).removeprefix("backbone."): _shape(value) or () for name, value in state.items()}
    stem = shapes.get("conv1.weight", ())
    if len(stem) != 4:
        return f"tensors such as {', '.join(list(shapes)[:3]) or 'none at all'}"
    words = ["resnet50" if "layer1.0.conv3.weight" in shapes else f"resnet18 of width {stem[0]}"]
    words[0] += f" with a {stem[2]} x {stem[3]} stem"
    for kind in ("contrastive_head", "cluster_head"):
        sizes = [shape[0] for name, shape in shapes.items() if name.startswith(kind) and len(shape) == 2]
        if sizes and kind == "cluster_head":
            words.append(f"{len(sizes)} head{'s' * (len(sizes) > 1)} of {sizes[0]} clusters")
        elif sizes:
            words.append(f"{'mlp' if len(sizes) > 1 else 'linear'} head of {sizes[-1]}")
    return ", ".join(words)


def load_strictly(module: nn.Module, state: dict, path) -> None:
    """Load `state` into `module`. Raises UserError with the first names when one is missing, left over or misshapen,
    and then loads nothing."""
    own = module.state_dict()
    wrong = [f"missing {name}" for name in own if name not in state]
    wrong += [f"left over {name}" for name in state if name not in own]
    shapes = {name: _shape(value) for name, value in state.items()}
    wrong += [
        f"{name} is {'no plain tensor' if shapes[name] is None else shapes[name]}, expected {tuple(own[name].shape)}"
        for name in own
        if name in state and shapes[name] != own[name].shape
    ]
    if wrong:
        raise UserError(
            f"{path} does not fit the model of the config ({len(wrong)} of {len(own)} tensors): "
            f"{'; '.join(wrong[:3])}; the file seems to hold {describe(state)}, the config asks for {describe(own)}; "
            "check backbone, model_kwargs, num_classes and num_heads"
        )
    if bad := [name for name, value in state.items() if not value.isfinite().all()]:
        raise UserError(
            f"{path} holds values that are not finite in {len(bad)} tensors, such as {bad[0]}: its training went "
            "wrong, or it is damaged; give another file"
        )
    module.load_state_dict(state)
