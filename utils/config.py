"""Configs: defaults of the key table, then configs/env.yml, then the experiment's YAML, then `key=value` arguments."""

import difflib
import math
import operator
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from easydict import EasyDict

from utils.config_keys import KEYS, Key
from utils.errors import UserError
from utils.files import write_whole

DEFAULT_ENV = Path("configs/env.yml")
CRITERIA = {"simclr": "simclr", "scan": "scan", "selflabel": "confidence-cross-entropy"}
MINED_LATER = ("simclr", "moco")  # their num_neighbors matters after training only

BY_NAME = {key.name: key for key in KEYS}
GROUPS = {name[:end] for name in BY_NAME for end, letter in enumerate(name) if letter == "."}

FORMS = {  # type: what an error asks for
    "str": "text",
    "path": "a path",
    "bool": "True or False",
    "int": "a whole number",
    "float": "a number",
    "ints": "a list of whole numbers",
    "range": "two numbers [low, high]",
    "rgb": "three numbers [red, green, blue]",
}
LISTS = {"ints": ("int", None), "range": ("float", 2), "rgb": ("float", 3)}  # type: of what, how many (None: any)
BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
COMPARISONS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
LONGEST = 200  # characters of a value or a name that an error shows


def load_config(env_path: str | Path | None, exp_path: str | Path, overrides: Sequence[str] = ()) -> EasyDict:
    """The config of one run. A later source wins, key by key: table, env file, experiment file, overrides.

    env_path: None means configs/env.yml, if there is one. overrides: `dotted.key=value`, the value in YAML.
    Keys that are missing are not asked for here: see `check_stage`. Raises UserError, naming key and source."""
    if env_path is None and DEFAULT_ENV.is_file():
        env_path = DEFAULT_ENV
    values = {key.name: key.default for key in KEYS if key.default is not None and not isinstance(key.default, dict)}
    for path in (env_path, exp_path):
        if path is not None:
            values |= _read_file(path)
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            shown = _cut(repr(override))
            raise UserError(f"command line: {shown} sets nothing; write it as key=value, such as seed=1")
        values |= _check({name: _parse_yaml(text, f"command line: {_show(name)}")}, "command line")

    for key in KEYS:
        if isinstance(key.default, dict) and values.get("setup") in key.default:
            values.setdefault(key.name, key.default[values["setup"]])
    if "train_db_name" in values:
        values.setdefault("run_name", values["train_db_name"])
    if "run_name" in values:
        for stage in ("pretext", "scan"):
            values.setdefault(f"{stage}_dir", os.path.join(values["root_dir"], values["run_name"], stage))
    return EasyDict(_nest(values))


def check_stage(cfg: EasyDict, stage: str) -> None:
    """Raise UserError unless cfg is for this stage and has every key it needs.

    stage: simclr, moco, scan or selflabel; or eval, which evaluates any of them and needs less."""
    values = _flatten(cfg)
    setup = values.get("setup")
    if stage != "eval" and setup not in (stage, None):
        raise UserError(f"this config has setup: {setup}, so run it with {setup}.py; {stage}.py needs setup: {stage}")
    criterion = CRITERIA.get(stage)
    if criterion and values.get("criterion", criterion) != criterion:
        raise UserError(f"criterion {cfg.criterion} does not fit setup: {stage}; write criterion: {criterion}")
    if missing := [key.name for key in KEYS if key.name not in values and _is_needed(key, stage, values)]:
        shown = textwrap.shorten(", ".join(missing), 300, placeholder=" ...")
        raise UserError(f"{stage}.py needs keys that the config lacks: {shown}; add them to its YAML")
    if Path(cfg.run_name).is_absolute() or ".." in Path(cfg.run_name).parts:
        shown = _show(cfg.run_name)
        raise UserError(f"run_name {shown} leads out of root_dir: give a plain name, and the place as root_dir=...")
    if stage not in CRITERIA:
        return  # nothing is trained
    for name in values:
        if name.startswith("criterion_kwargs.") and not _is_needed(BY_NAME[name], stage, values):
            raise UserError(f"{name} is {values[name]}, but criterion: {criterion} has no such term; leave it out")
    cutout = cfg.augmentation_kwargs.get("cutout_kwargs") if cfg.augmentation_strategy == "affine" else None
    if cutout and (missing := {"n_holes", "length"} - cutout.keys()):
        name = f"augmentation_kwargs.cutout_kwargs.{min(missing)}"
        raise UserError(f"{name} is missing: give it, or leave cutout_kwargs out, as affine may do without")
    kwargs = cfg.optimizer_kwargs
    if cfg.optimizer == "sgd" and kwargs.nesterov and not kwargs.momentum:
        raise UserError("optimizer_kwargs.nesterov is True with momentum 0: give a momentum, or nesterov: False")
    if stage == "selflabel" and cfg.num_heads != 1:
        raise UserError(f"num_heads is {cfg.num_heads}: selflabel.py trains the best head alone; write num_heads: 1")


def save_config(cfg: EasyDict, path: str | Path) -> None:
    """Write cfg as YAML, whole or not at all; `load_config(None, path)` gives it back."""
    text = yaml.safe_dump(_nest(_flatten(cfg)), encoding="utf-8", sort_keys=False, default_flow_style=None)
    write_whole({Path(path): text})


def resume_differences(saved: EasyDict, current: EasyDict) -> list[str]:
    """Lines such as `batch_size: 128 -> 256`, one for each key whose change would make a resume another run."""
    old, new = _flatten(saved), _flatten(current)
    return [
        f"{key.name}: {old.get(key.name, 'absent')} -> {new.get(key.name, 'absent')}"
        for key in KEYS
        if not (key.may_change or (key.name == "num_neighbors" and current.setup in MINED_LATER))
        and old.get(key.name) != new.get(key.name)
    ]


def wanted(key: Key) -> str:
    """What a value of this key should be, in words."""
    if isinstance(key.allowed, tuple):
        return f"one of {', '.join(key.allowed)}"
    return f"{FORMS[key.type]} {' and '.join(key.allowed.split())}".strip()


def _is_needed(key: Key, stage: str, values: Mapping[str, Any]) -> bool:
    other, condition, accepted = key.needed.rpartition("=")
    if not condition:
        return stage in accepted.split()
    return _is_needed(BY_NAME[other], stage, values) and str(values.get(other)) in accepted.split()


class _Loader(yaml.BaseLoader):
    """Leaves scalars as text, for the key's type decides what they mean: YAML 1.1 takes 1e-4 for text, 010 for 8 and
    1:30 for 90. Refuses a key that stands twice."""

    def construct_mapping(self, node, deep=False):
        mapping = super().construct_mapping(node, deep)
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key.value!r}", key.start_mark)
            seen.add(key.value)
        return mapping


def _read_file(path: str | Path) -> dict[str, Any]:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        shipped = {file.name: str(file) for file in Path("configs").rglob("*.yml")}
        near = difflib.get_close_matches(Path(path).name, shipped, n=1, cutoff=0.6)
        hint = f"did you mean {shipped[near[0]]}?" if near else "give one of those under configs/"
        raise UserError(f"cannot read config {Path(path).absolute()}: {error.strerror}; {hint}") from error
    tree = _parse_yaml(content, str(path))
    if not isinstance(tree, dict | None):
        raise UserError(f"{path}: should be a mapping, lines of `key: value`, not {_show(tree)}")
    return _check(tree or {}, str(path))


def _parse_yaml(content: str | bytes, source: str) -> Any:
    try:
        return yaml.load(content, _Loader)
    except yaml.reader.ReaderError as error:
        raise UserError(f"{source}: not a text file in UTF-8 ({error.reason})") from error
    except yaml.MarkedYAMLError as error:
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise UserError(f"{source}, line {error.problem_mark.line + 1}: {_cut(problem)}") from error
    except (RecursionError, ValueError, OverflowError) as error:  # PyYAML's own, at a deep nest or "\UFFFFFFFF"
        raise UserError(f"{source}: cannot be read as YAML ({error})") from error


def _check(tree: Mapping[str, Any], source: str, prefix: str = "") -> dict[str, Any]:
    """A parsed mapping as {dotted name: value of the key's type}."""
    values = {}
    for word, value in tree.items():
        name = prefix + word
        if name in GROUPS:
            if not isinstance(value, dict):
                raise UserError(f"{source}: {name} should be a mapping of keys, not {_show(value)}")
            values |= _check(value, source, f"{name}.")
        elif name in BY_NAME:
            try:
                values[name] = _convert(BY_NAME[name], value)
            except ValueError as error:
                raise UserError(f"{source}: {name} should be {error}, not {_show(value)}") from error
        else:
            nearest = _nearest(name[:LONGEST])
            raise UserError(f"{source}: unknown key {_cut(repr(name))}; the nearest one is {nearest!r}")
    return values


def _show(value: Any) -> str:
    """What the user wrote, on one line of bounded length."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return _cut(f"[{', '.join('a list' if isinstance(item, list) else _show(item) for item in value)}]")
    return _cut(value if value.isprintable() else repr(value)) if value else "empty"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _nearest(name: str) -> str:
    names = sorted({*BY_NAME, *GROUPS})
    moved = [other for other in names if other.rpartition(".")[2] == name.rpartition(".")[2]]  # in another mapping
    return difflib.get_close_matches(name, moved or names, n=1, cutoff=0)[0]


def _convert(key: Key, value: Any) -> Any:
    """The value in the key's type; ValueError saying what it should be."""
    form = FORMS[key.type]
    kind, length = LISTS.get(key.type, (key.type, 1))
    items = value if isinstance(value, list) else [value]
    if isinstance(value, list) != (key.type in LISTS) or length not in (None, len(items)):
        raise ValueError(form)
    try:
        items = [_convert_scalar(kind, item) for item in items]
    except ValueError:
        raise ValueError(form) from None
    if key.type == "range" and items[0] > items[1]:
        raise ValueError(form)
    if isinstance(key.allowed, tuple):
        fits = items[0] in key.allowed
    else:
        fits = all(_within(bound, item) for bound in key.allowed.split() for item in items)
    if not fits:
        raise ValueError(wanted(key))
    return items if isinstance(value, list) else items[0]


def _convert_scalar(kind: str, text: Any) -> Any:
    """Text as str, path, bool, float or int, without loss; ValueError where that cannot be."""
    if not isinstance(text, str) or text.lower() in ("", "~", "null"):  # YAML's words for nothing
        raise ValueError
    if kind in ("str", "path"):
        if min(text.encode()) < 32:  # control characters; half a surrogate pair is a ValueError by itself
            raise ValueError
        return os.path.expanduser(text) if kind == "path" else text
    if kind == "bool":
        if text.lower() not in BOOLS:
            raise ValueError
        return BOOLS[text.lower()]
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    if kind == "float":
        return number
    if not number.is_integer():
        raise ValueError
    return int(number)


def _within(bound: str, number: float) -> bool:
    sign = bound.rstrip("0123456789.")
    return COMPARISONS[sign](number, float(bound.removeprefix(sign)))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    values = {}
    for word, value in tree.items():
        values |= _flatten(value, f"{prefix}{word}.") if isinstance(value, dict) else {prefix + word: value}
    return values


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    tree = {}
    for name, value in values.items():
        *groups, word = name.split(".")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
        place[word] = value
    return tree
