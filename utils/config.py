"""Configs: defaults of the key table, then configs/env.yml, then the experiment's YAML, then `key=value` arguments."""

import difflib
import math
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from easydict import EasyDict

from utils.config_keys import KEYS, Key
from utils.errors import UserError
from utils.files import replacing

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
            raise UserError(f"command line: {override!r} sets nothing; write it as key=value, such as seed=1")
        values |= _check({name: _parse_yaml(text, f"command line: {name}")}, "command line")

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
        raise UserError(f"{stage}.py needs keys that the config lacks: {', '.join(missing)}; add them to its YAML")
    kwargs = cfg.get("optimizer_kwargs", {})
    if kwargs.get("nesterov") and not kwargs.get("momentum"):
        raise UserError("optimizer_kwargs.nesterov is True with momentum 0: give a momentum, or nesterov: False")
    if stage == "selflabel" and cfg.num_heads != 1:
        raise UserError(f"num_heads is {cfg.num_heads}: selflabel.py trains the best head alone; write num_heads: 1")


def save_config(cfg: EasyDict, path: str | Path) -> None:
    """Write cfg as YAML, whole or not at all; `load_config(None, path)` gives it back."""
    with replacing(path) as file:
        yaml.safe_dump(_nest(_flatten(cfg)), file, encoding="utf-8", sort_keys=False, default_flow_style=None)


def resume_differences(saved: EasyDict, current: EasyDict) -> list[str]:
    """Lines such as `batch_size: 128 -> 256`, one for each key whose change would make a resume another run."""
    old, new = _flatten(saved), _flatten(current)
    return [
        f"{key.name}: {old.get(key.name, 'absent')} -> {new.get(key.name, 'absent')}"
        for key in KEYS
        if not (key.may_change or (key.name == "num_neighbors" and current.setup in MINED_LATER))
        and old.get(key.name) != new.get(key.name)
    ]


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
        raise UserError(f"cannot read config {Path(path).absolute()}: {error.strerror}") from error
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
        raise UserError(f"{source}, line {error.problem_mark.line + 1}: {error.problem}") from error


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
            raise UserError(f"{source}: unknown key {name!r}; the nearest one is {_nearest(name)!r}")
    return values


def _show(value: Any) -> str:
    """What the user wrote, on one line."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"[{', '.join(map(_show, value))}]"
    return (value if value.isprintable() else repr(value)) if value else "empty"


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
        if items[0] not in key.allowed:
            raise ValueError(f"one of {', '.join(key.allowed)}")
    elif not all(_within(bound, item) for bound in key.allowed.split() for item in items):
        raise ValueError(f"{form} {' and '.join(key.allowed.split())}")
    return items if isinstance(value, list) else items[0]


def _convert_scalar(kind: str, text: Any) -> Any:
    """Text as str, path, bool, float or int, without loss; ValueError where that cannot be."""
    if not isinstance(text, str) or text.lower() in ("", "~", "null"):  # YAML's words for nothing
        raise ValueError
    if kind == "str":
        return text
    if kind == "path":
        return os.path.expanduser(text)
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
