"""Configs: from the key table, configs/env.yml, the experiment's YAML and `key=value` arguments."""

import difflib
import hashlib
import json
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from easydict import EasyDict

from utils.config.keys import KEYS, Key
from utils.config.values import LONGEST, as_written, expected, parse_value, parse_yaml, shorten
from utils.errors import UserError
from utils.storage.files import write_whole

DEFAULT_ENV = Path("configs/env.yml")
CRITERIA = {"simclr": "simclr", "scan": "scan", "selflabel": "confidence-cross-entropy"}
PRIOR = "criterion_kwargs.cluster_prior"
OF_A_MODEL = ("backbone:", "model_kwargs.", "transformation_kwargs.")  # what decides a model's outputs

BY_NAME = {key.name: key for key in KEYS}
GROUPS = {name[:end] for name in BY_NAME for end, letter in enumerate(name) if letter == "."}


def load_config(env_path: str | Path | None, exp_path: str | Path, overrides: Sequence[str] = ()) -> EasyDict:
    """The config of one run. A later source wins, key by key: table, env file, experiment file, overrides.

    env_path: None means configs/env.yml, if there is one. overrides: `dotted.key=value`, the value in YAML.
    Raises UserError that names key and source. Missing keys are the business of `check_stage`."""
    if env_path is None and DEFAULT_ENV.is_file():
        env_path = DEFAULT_ENV
    values = {}
    for path in (env_path, exp_path):
        values |= {} if path is None else _read_file(path)
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"command line: {shorten(repr(override))} sets nothing; write it as key=value")
        values |= _typed({name: parse_yaml(text, f"command line: {as_written(name)}")}, "command line")

    for key in KEYS:
        default = key.default.get(values.get("setup")) if isinstance(key.default, dict) else key.default
        if default is not None:
            values.setdefault(key.name, default)
    if "train_db_name" in values:
        own = values.get("folder.path") if values["train_db_name"] == "folder" else None
        values.setdefault("run_name", (own and Path(os.path.abspath(own)).name) or values["train_db_name"])
    if "run_name" in values:
        for stage in ("pretext", "scan"):
            values.setdefault(f"{stage}_dir", os.path.join(values["root_dir"], values["run_name"], stage))
    return EasyDict(_nest(values))


def check_stage(cfg: EasyDict, stage: str) -> None:
    """Raise UserError unless cfg is for this stage, has every key it needs, and its values go together.

    stage: simclr, moco, scan or selflabel; or eval, which evaluates any of them and needs less."""
    values = _flatten(cfg)
    setup = values.get("setup", stage)
    if setup != stage and stage != "eval":
        raise UserError(
            f"this config has setup: {setup}, run it with {setup}.py; {stage}.py needs setup: {stage}"
        )
    criterion = values.get("criterion")
    if stage in CRITERIA and criterion not in (CRITERIA[stage], None):
        raise UserError(
            f"criterion {criterion} does not fit setup: {stage}; write criterion: {CRITERIA[stage]}"
        )
    if missing := [key.name for key in KEYS if key.name not in values and _is_needed(key, stage, values)]:
        shown = textwrap.shorten(", ".join(missing), 300, placeholder=" ...")
        raise UserError(f"{stage}.py needs keys that the config lacks: {shown}; add them to its YAML")
    for mistake in _mistakes(cfg, stage, values):
        raise UserError(mistake)


def _mistakes(cfg: EasyDict, stage: str, values: Mapping[str, Any]) -> Iterator[str]:
    """Values that are right alone, but not together. cfg has every key that the stage needs."""
    if "folder" in (cfg.train_db_name, cfg.val_db_name) and stage != "eval" and "path" not in cfg.folder:
        yield "folder.path is missing: give the folder that holds your pictures, as folder.path=..."
    if Path(cfg.run_name).is_absolute() or ".." in Path(cfg.run_name).parts:
        yield f"run_name {as_written(cfg.run_name)} leads out of root_dir: give a name, and root_dir=..."
    if stage not in CRITERIA:
        return  # nothing is trained
    for name in values:
        fits = _is_needed(BY_NAME[name], stage, values) or (name == PRIOR and stage == "scan")
        if name.startswith("criterion_kwargs.") and not fits:
            value = shorten(str(values[name]))
            yield f"{name} is {value}, but criterion: {cfg.criterion} has no such term; leave it out"
    if PRIOR in values and len(values[PRIOR]) != cfg.num_classes:
        count = len(values[PRIOR])
        yield f"{PRIOR} has {count} numbers, but num_classes is {cfg.num_classes}: give one for each cluster"
    cutout = cfg.augmentation_kwargs.get("cutout_kwargs") if cfg.augmentation_strategy == "affine" else None
    if cutout and (missing := {"n_holes", "length"} - cutout.keys()):
        name = f"augmentation_kwargs.cutout_kwargs.{min(missing)}"
        yield f"{name} is missing: give it, or leave cutout_kwargs out, which is optional with affine"
    if stage == "scan" and cfg.cached_views and not cfg.update_cluster_head_only:
        value = f"cached_views is {cfg.cached_views}"
        yield f"{value}, but works with a frozen backbone only: write 0, or update_cluster_head_only: True"
    if cfg.optimizer == "sgd" and cfg.optimizer_kwargs.nesterov and not cfg.optimizer_kwargs.momentum:
        yield "optimizer_kwargs.nesterov is True with momentum 0: give a momentum, or nesterov: False"
    if stage == "selflabel" and cfg.num_heads != 1:
        yield f"num_heads is {cfg.num_heads}: selflabel.py trains only the best head; write num_heads: 1"


def save_config(cfg: EasyDict, path: str | Path) -> None:
    """Write cfg as YAML, whole or not at all; `load_config(None, path)` gives it back."""
    text = yaml.safe_dump(_nest(_flatten(cfg)), encoding="utf-8", sort_keys=False, default_flow_style=None)
    write_whole({Path(path): text})


def resume_differences(saved: EasyDict, current: EasyDict) -> list[str]:
    """Lines such as `batch_size: 128 -> 256`, one for each difference that makes another run."""
    old, new = _fixed(saved), _fixed(current)
    names = [name for name in BY_NAME if old.get(name) != new.get(name)]
    return [f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}" for name in names]


def config_hash(cfg: EasyDict) -> str:
    """SHA-256 of the settings that make a run what it is: those that a resume may not change."""
    return hashlib.sha256(json.dumps(_fixed(cfg)).encode()).hexdigest()


def view_differences(trained: EasyDict, current: EasyDict) -> list[str]:
    """Those of `resume_differences` with which a model sees or computes other things than in its training."""
    return [line for line in resume_differences(trained, current) if line.startswith(OF_A_MODEL)]


def _fixed(cfg: EasyDict) -> dict[str, Any]:
    """{dotted name: value} of the settings that a resume may not change, in the order of the table."""
    values = _flatten(cfg)
    names = [key.name for key in KEYS if cfg.get("setup") not in key.may_change.split()]
    return {name: values[name] for name in names if name in values}


def _is_needed(key: Key, stage: str, values: Mapping[str, Any]) -> bool:
    other, condition, accepted = key.needed.rpartition("=")
    if not condition:
        return stage in accepted.split()
    return _is_needed(BY_NAME[other], stage, values) and str(values.get(other)) in accepted.split()


def _read_file(path: str | Path) -> dict[str, Any]:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        shipped = {file.name: str(file) for file in Path("configs").rglob("*.yml")}
        near = difflib.get_close_matches(Path(path).name, shipped, n=1, cutoff=0.6)
        hint = f"did you mean {shipped[near[0]]}?" if near else "give one of those under configs/"
        raise UserError(f"cannot read config {Path(path).absolute()}: {error.strerror}; {hint}") from error
    tree = parse_yaml(content, str(path))
    if not isinstance(tree, dict | None):
        raise UserError(f"{path}: should be a mapping, lines of `key: value`, not {as_written(tree)}")
    return _typed(tree or {}, str(path))


def _typed(tree: Mapping[str, Any], source: str, prefix: str = "") -> dict[str, Any]:
    """A parsed mapping as {dotted name: value}. Raises UserError for an unknown key or a wrong value."""
    values = {}
    for word, raw in tree.items():
        name = prefix + word
        if name in GROUPS:
            if not isinstance(raw, dict):
                raise UserError(f"{source}: {name} should be a mapping of keys, not {as_written(raw)}")
            values |= _typed(raw, source, f"{name}.")
        elif name in BY_NAME:
            try:
                values[name] = parse_value(BY_NAME[name], raw)
            except ValueError as error:
                should = f"should be {expected(BY_NAME[name])}, not {as_written(raw)}"
                raise UserError(f"{source}: {name} {should}") from error
        else:
            nearest = _nearest(name[:LONGEST])
            raise UserError(f"{source}: unknown key {shorten(repr(name))}; the nearest one is {nearest!r}")
    return values


def _nearest(name: str) -> str:
    """The known name most like this one, first among those with the same last word."""
    names = sorted({*BY_NAME, *GROUPS})
    moved = [other for other in names if other.rpartition(".")[2] == name.rpartition(".")[2]]
    return difflib.get_close_matches(name, moved or names, n=1, cutoff=0)[0]


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
