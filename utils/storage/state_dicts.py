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
        raise UserError(f"{path} holds weights twice, with and without module.: give a file of one model")
    return plain


def _shape(value: Any) -> tuple[int, ...] | str:
    is_dense = isinstance(value, Tensor) and not (value.is_sparse or value.is_meta)
    return tuple(value.shape) if is_dense else "no dense tensor"


def load_strictly(module: nn.Module, state: dict[str, Any], path) -> str:
    """Load `state` into `module` and return a line for the log. Raises UserError, and loads nothing, if a
    tensor is missing, left over, misshapen or not finite."""
    wanted = {name: _shape(value) for name, value in module.state_dict().items()}
    found = {name: _shape(value) for name, value in state.items()}
    if wrong := [name for name in wanted | found if found.get(name) != wanted.get(name)]:
        some = [f"{k} is {found.get(k, 'missing')}, expected {wanted.get(k, 'none')}" for k in wrong[:3]]
        remedy = "check backbone, model_kwargs, feature_pca, num_classes and num_heads"
        raise UserError(f"{path} does not fit the config ({len(wrong)} tensors: {'; '.join(some)}): {remedy}")
    if bad := [name for name, value in state.items() if not value.isfinite().all()]:
        raise UserError(f"{path}: {bad[0]} is not finite (damaged, or training failed); give another file")
    whole = module.state_dict()  # has the versions of its layers, for which MNASNet asks
    whole.update(state)
    module.load_state_dict(whole)
    return f"loaded {len(state)} tensors from {path}"
