"""Trained weights in files. When they are read, every tensor must fit by name and shape, or nothing is loaded."""

import io
import re
import struct
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.files import check_recorded

MADE_BY = {"pretext": "simclr.py", "scan": "scan.py", "selflabel": "selflabel.py"}

WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.")  # of DataParallel and torch.compile


class _NumberType:
    """Stands for NumPy's dtype in a pickle, of four kinds of numbers and no more.

    NumPy's own takes a shape from the file, even where it is an integer's, and then reads beyond its bytes."""

    def __init__(self, name: str, *flags):
        self.letter = {"i4": "i", "i8": "q", "f4": "f", "f8": "d"}[name]

    def __setstate__(self, state: tuple):
        _, self.order, *claims = state  # `<` or `>`
        if claims != [None, None, None, -1, -1, 0]:
            raise ValueError("more than the type of a number")


def _number(number_type: _NumberType, content: bytes) -> int | float:
    return struct.unpack(number_type.order + number_type.letter, content)[0]


NUMPY_NUMBERS = [  # what makes a number of NumPy in a pickle, as NumPy 1 and as NumPy 2 name it, and what is called
    (_NumberType, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
]


class Weights(NamedTuple):
    """What a file of weights holds.

    stage: `pretext`, `scan` or `selflabel`. state: tensors by name, without what DataParallel and torch.compile put
    into the names. head: the best one of a scan model, else 0. form: `model file`, or which checkpoint."""

    stage: str
    state: dict[str, Tensor]
    head: int
    form: str


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
    """The content of a weight file or checkpoint, on the CPU, in PyTorch's present or former format. Tensors, plain
    types and numbers of NumPy (as plain ones) are read; raises UserError for a file with anything else in it."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(NUMPY_NUMBERS):
            warnings.simplefilter("ignore")  # PyTorch explains a bad file at length
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and zipfile raise a dozen kinds for a bad file
        raise UserError(
            f"{path} ({Path(path).stat().st_size} bytes) cannot be read: it is damaged, no PyTorch file, or holds more "
            "than tensors and plain values; nothing in it was run; put the right file there or make it anew"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no named weights but a {type(content).__name__}: give a model.pth.tar")
    return content


def read_weights(path, stage: str | None = None) -> Weights:
    """The weights in a model file or a checkpoint, ours or a published one. Raises UserError if they are of no stage,
    or of another `stage` than asked for."""
    content = read_file(path)
    state, best, is_scan, form = content, 0, False, "model file"
    if content.keys() == {"model", "head"}:
        state, best, is_scan = content["model"], content["head"], True
    elif {"model", "optimizer"} <= content.keys():
        state, best, is_scan = content["model"], content.get("best_loss_head", 0), "best_loss_head" in content
        form = f"checkpoint after epoch {_in_short(content.get('epoch'))}"
    state = plain_names(state, path)
    heads = sum(bool(re.fullmatch(r"cluster_head\.\d+\.weight", name)) for name in state)
    if is_scan and (type(best) is not int or not 0 <= best < heads):
        raise UserError(
            f"{path} names head {_in_short(best)} as its best, but holds {heads} heads: it is no whole scan model; "
            f"give the model.pth.tar that {MADE_BY['scan']} wrote"
        )
    if heads > 1 and not is_scan:
        raise UserError(
            f"{path} holds {heads} heads and does not say which is the best ({describe(state)}): give the "
            f"model.pth.tar that {MADE_BY['scan']} wrote"
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
            f"{MADE_BY[stage]} wrote"
        )
    return Weights(found, state, best, form)


def plain_names(state: Any, path) -> dict[str, Any]:
    """The state dict without `module.` (DataParallel) and `_orig_mod.` (torch.compile) in its names. Raises UserError
    if it is none, or if two names become the same."""
    if not isinstance(state, dict):
        raise UserError(f"{path} holds no named weights but a {type(state).__name__}: give a model.pth.tar")
    plain = {}
    for name, value in state.items():
        if not isinstance(name, str) or not name.isprintable():
            raise UserError(f"{path} holds no named weights: {_in_short(name)} is no name; give a model.pth.tar")
        short = WRAPPERS.sub("", name)
        if short in plain:
            raise UserError(
                f"{path} holds weights twice ({short}), with and without a wrapper's prefix: give a file of one model"
            )
        plain[short] = value
    return plain


def _in_short(value: Any) -> str:
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
