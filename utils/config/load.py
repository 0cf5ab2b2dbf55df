"""Configs: defaults of the key table, then configs/env.yml, then the experiment's YAML, then `key=value` arguments."""

import difflib
import hashlib
import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from easydict import EasyDict

from utils.config.keys import KEYS, Key
from utils.config.values import LONGEST, convert, cut, parse_yaml, readable
from utils.errors import UserError
from utils.storage.files import write_whole

DEFAULT_ENV = Path("configs/env.yml")
CRITERIA = {"simclr": "simclr", "scan": "scan", "selflabel": "confidence-cross-entropy"}
PRIOR = "criterion_kwargs.cluster_prior"  # the one term of a criterion that may be absent
WHAT_IT_SEES = ("backbone:", "model_kwargs.", "transformation_kwargs.")
MINED_LATER = ("simclr", "moco")  # their num_neighbors matters after training only

BY_NAME = {key.name: key for key in KEYS}
GROUPS = {name[:end] for name in BY_NAME for end, letter in enumerate(name) if letter == "."}


def load_config(env_path: str | Path | None, exp_path: str | Path, overrides: Sequence[str] = ()) -> EasyDict:
    """The config of one run. A later source wins, key by key: table, env file, experiment file, overrides.

    env_path: None means configs/env.yml, if there is one. overrides: `dotted.key=value`, the value in YAML.
    Keys that are missing are not asked for here: see `check_stage`. Raises UserError, naming key and source."""
    if env_path is None and DEFAULT_ENV.is_file():
        env_path = DEFAULT_ENV
    values = {
        key.name: key.default for key in KEYS if key.default is not None and not isinstance(key.default, dict)
    }
    for path in (env_path, exp_path):
        if path is not None:
            values |= _read_file(path)
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            shown = cut(repr(override))
            raise UserError(f"command line: {shown} sets nothing; write it as key=value, such as seed=1")
        values |= _check({name: parse_yaml(text, f"command line: {readable(name)}")}, "command line")

    for key in KEYS:
        if isinstance(key.default, dict) and values.get("setup") in key.default:
            values.setdefault(key.name, key.default[values["setup"]])
    if "train_db_name" in values:
        own = values.get("folder.path") if values["train_db_name"] == "folder" else None
        values.setdefault("run_name", (own and Path(os.path.abspath(own)).name) or values["train_db_name"])
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
        raise UserError(
            f"this config has setup: {setup}, so run it with {setup}.py; {stage}.py needs setup: {stage}"
        )
    criterion = CRITERIA.get(stage)
    if criterion and values.get("criterion", criterion) != criterion:
        raise UserError(
            f"criterion {cfg.criterion} does not fit setup: {stage}; write criterion: {criterion}"
        )
    if missing := [key.name for key in KEYS if key.name not in values and _is_needed(key, stage, values)]:
        shown = textwrap.shorten(", ".join(missing), 300, placeholder=" ...")
        raise UserError(f"{stage}.py needs keys that the config lacks: {shown}; add them to its YAML")
    if "folder" in (cfg.train_db_name, cfg.val_db_name) and stage != "eval" and "path" not in cfg.folder:
        raise UserError(
            "folder.path is missing: give the folder that holds your pictures, as folder.path=..."
        )
    if Path(cfg.run_name).is_absolute() or ".." in Path(cfg.run_name).parts:
        shown = readable(cfg.run_name)
        raise UserError(
            f"run_name {shown} leads out of root_dir: give a plain name, and the place as root_dir=..."
        )
    if stage not in CRITERIA:
        return  # nothing is trained
    for name in values:
        fits = _is_needed(BY_NAME[name], stage, values) or (name == PRIOR and stage == "scan")
        if name.startswith("criterion_kwargs.") and not fits:
            shown = cut(str(values[name]))
            raise UserError(f"{name} is {shown}, but criterion: {criterion} has no such term; leave it out")
    if PRIOR in values and len(values[PRIOR]) != cfg.num_classes:
        raise UserError(
            f"{PRIOR} has {len(values[PRIOR])} numbers, but num_classes is {cfg.num_classes}: give one for each cluster"
        )
    cutout = cfg.augmentation_kwargs.get("cutout_kwargs") if cfg.augmentation_strategy == "affine" else None
    if cutout and (missing := {"n_holes", "length"} - cutout.keys()):
        name = f"augmentation_kwargs.cutout_kwargs.{min(missing)}"
        raise UserError(f"{name} is missing: give it, or leave cutout_kwargs out, as affine may do without")
    if stage == "scan" and cfg.cached_views and not cfg.update_cluster_head_only:
        raise UserError(
            f"cached_views is {cfg.cached_views}, but views can be kept for a frozen backbone only: write "
            "update_cluster_head_only: True, or cached_views: 0"
        )
    kwargs = cfg.optimizer_kwargs
    if cfg.optimizer == "sgd" and kwargs.nesterov and not kwargs.momentum:
        raise UserError(
            "optimizer_kwargs.nesterov is True with momentum 0: give a momentum, or nesterov: False"
        )
    if stage == "selflabel" and cfg.num_heads != 1:
        raise UserError(
            f"num_heads is {cfg.num_heads}: selflabel.py trains the best head alone; write num_heads: 1"
        )


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


def view_differences(trained: EasyDict, current: EasyDict) -> list[str]:
    """Of `resume_differences` those of the network and of the plain view: a model would see and compute other things
    than in its training."""
    return [line for line in resume_differences(trained, current) if line.startswith(WHAT_IT_SEES)]


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
        raise UserError(f"{path}: should be a mapping, lines of `key: value`, not {readable(tree)}")
    return _check(tree or {}, str(path))


def _check(tree: Mapping[str, Any], source: str, prefix: str = "") -> dict[str, Any]:
    """A parsed mapping as {dotted name: value of the key's type}."""
    values = {}
    for word, value in tree.items():
        name = prefix + word
        if name in GROUPS:
            if not isinstance(value, dict):
                raise UserError(f"{source}: {name} should be a mapping of keys, not {readable(value)}")
            values |= _check(value, source, f"{name}.")
        elif name in BY_NAME:
            try:
                values[name] = convert(BY_NAME[name], value)
            except ValueError as error:
                raise UserError(f"{source}: {name} should be {error}, not {readable(value)}") from error
        else:
            nearest = _nearest(name[:LONGEST])
            raise UserError(f"{source}: unknown key {cut(repr(name))}; the nearest one is {nearest!r}")
    return values


def _nearest(name: str) -> str:
    names = sorted({*BY_NAME, *GROUPS})
    moved = [
        other for other in names if other.rpartition(".")[2] == name.rpartition(".")[2]
    ]  # in another mapping
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


def config_hash(cfg) -> str:
    """SHA-256 of the settings that a resume may not change."""
    values = _flatten(cfg)
    kept = {key.name: values.get(key.name) for key in KEYS if not key.may_change}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
