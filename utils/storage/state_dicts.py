"""State dicts: plain names, and loading in which every tensor must fit by name and shape."""

import re
from typing import Any

from torch import Tensor, nn

from utils.errors import UserError

WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.")  # of DataParallel and torch.compile


def plain_names(state: Any, path) -> dict[str, Any]:
    """The state dict without `module.` and `_orig_mod.` in its names. Raises UserError if it has no names, or
    the same name twice."""
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise UserError(f"{path} holds no named weights: give a model.pth.tar")
    plain = {WRAPPERS.sub("", name): value for name, value in state.items()}
    if len(plain) < len(state):
        raise UserError(
            f"{path} holds {len(state) - len(plain)} weights twice, with and without module.: give a file of "
            "one model"
        )
    return plain


def _shape(value: Any) -> tuple[int, ...] | str:
    is_dense = isinstance(value, Tensor) and not (value.is_sparse or value.is_meta)
    return tuple(value.shape) if is_dense else "no dense tensor"


def architecture_of(state: dict[str, Any]) -> str:
    """The network that a state dict seems to belong to, in words."""
    shapes = {name.removeprefix("backbone."): _shape(value) for name, value in state.items()}
    stem = shapes.get("conv1.weight")
    if not isinstance(stem, tuple) or len(stem) != 4:
        return f"tensors such as {', '.join(list(shapes)[:3]) or 'none at all'}"
    network = "resnet50" if "layer1.0.conv3.weight" in shapes else f"resnet18 of width {stem[0]}"
    words = [f"{network} with a {stem[2]} x {stem[3]} stem"]
    layers = {name: shape[0] for name, shape in shapes.items() if len(shape) == 2}
    if sizes := [size for name, size in layers.items() if name.startswith("contrastive_head")]:
        words.append(f"{'mlp' if len(sizes) > 1 else 'linear'} head of {sizes[-1]}")
    if sizes := [size for name, size in layers.items() if name.startswith("cluster_head")]:
        words.append(f"{len(sizes)} head{'s' * (len(sizes) > 1)} of {sizes[0]} clusters")
    return ", ".join(words)


def load_strictly(module: nn.Module, state: dict[str, Any], path) -> None:
    """Load `state` into `module`. Raises UserError, and loads nothing, if a tensor is missing, left over,
    misshapen or not finite."""
    own = module.state_dict()
    wrong = [f"missing {name}" for name in own if name not in state]
    wrong += [f"left over {name}" for name in state if name not in own]
    shapes = {name: (_shape(state[name]), tuple(own[name].shape)) for name in own if name in state}
    wrong += [f"{name} is {shape}, expected {fit}" for name, (shape, fit) in shapes.items() if shape != fit]
    if wrong:
        raise UserError(
            f"{path} does not fit the model of the config ({len(wrong)} of {len(own)} tensors): "
            f"{'; '.join(wrong[:3])}; the file seems to hold {architecture_of(state)}, the config asks for "
            f"{architecture_of(own)}: check backbone, model_kwargs, num_classes and num_heads"
        )
    if bad := [name for name, value in state.items() if not value.isfinite().all()]:
        raise UserError(
            f"{path} holds values that are not finite in {len(bad)} tensors, such as {bad[0]}: its training "
            "failed, or it is damaged; give another file"
        )
    module.load_state_dict(state)
