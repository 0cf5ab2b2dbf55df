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

from utils.config.keys import GROUPS, KEYS, Key
from utils.config.place import derived, to_store, values_from_place
from utils.config.values import as_written, expected, parse_value, parse_yaml, read_override, shorten, to_yaml
from utils.errors import UserError
from utils.mypath import beside_scripts
from utils.storage.files import explain, write_whole

DEFAULT_ENV = "configs/env.yml"
CRITERIA = {  # stage: its criteria, each with the keys of criterion_kwargs that it takes
    "simclr": {"simclr": ("temperature",)},
    "scan": {"scan": ("entropy_weight", "cluster_prior"), "temi": ("beta", "teacher_momentum")},
    "selflabel": {"confidence-cross-entropy": ("apply_class_balancing",)},
}
OF_A_MODEL = ("backbone:", "model_kwargs.", "transformation_kwargs.")  # what decides a model's outputs


def load_config(env_path: str | Path | None, exp_path: str | Path, overrides: Sequence[str] = ()) -> EasyDict:
    """The config of one run. A later source wins, key by key: table, env file, experiment file, overrides.

    A run's own config.yml means the tree in which it lies, see `values_from_place`.
    env_path: None means configs/env.yml, if there is one here or beside the scripts. overrides:
    `dotted.key=value`; a value is taken as it is, only lists and groups of keys are read as YAML.
    Raises UserError that names key and source. `check_stage` looks for missing keys."""
    if env_path is None:
        env_path = beside_scripts(DEFAULT_ENV)
        env_path = env_path if os.path.isfile(env_path) else os.devnull
    values = _read_file(exp_path)
    values = _read_file(env_path) | values | values_from_place(exp_path, values)
    for name, raw in map(read_override, overrides):
        values |= _typed({name: raw}, "command line")

    for key in KEYS.values():
        default = key.default.get(values.get("setup")) if isinstance(key.default, dict) else key.default
        if default is not None:
            values.setdefault(key.name, default)
    return EasyDict(_nest(derived(values) | values))


def check_stage(cfg: EasyDict, stage: str) -> None:
    """Raise UserError unless cfg is for this stage, has every key it needs, and its values go together.

    stage: simclr, moco, scan or selflabel; or eval, which evaluates any of them and needs less."""
    for mistake in _mistakes(flatten(cfg), stage):
        raise UserError(mistake)


def _mistakes(values: Mapping[str, Any], stage: str) -> Iterator[str]:
    """What is wrong. Later checks rely on the earlier ones."""
    setup, criterion = values.get("setup", stage), values.get("criterion")
    if stage not in (setup, "eval"):
        yield f"this config has setup: {setup}, run it with {setup}.py; {stage}.py needs setup: {stage}"
    own = CRITERIA.get(stage, {criterion: ()})
    if criterion not in (*own, None):
        yield f"criterion {criterion} does not fit setup: {stage}; write criterion: {' or '.join(own)}"
    needed = (name for name, key in KEYS.items() if _is_needed(key, stage, values))
    if missing := [name for name in needed if name not in values]:
        shown = textwrap.shorten(", ".join(missing), 300, placeholder=" ...")
        yield f"{stage}.py needs keys that the config lacks: {shown}; add them to its YAML"
    data_sets, is_ready = {values["train_db_name"], values["val_db_name"]}, values["backbone"] == "features"
    if is_ready and data_sets != {"folder"}:
        found = " and ".join(sorted(data_sets))
        yield f"backbone is features, which need train_db_name and val_db_name: folder, not {found}"
    if is_ready and "folder.val_path" in values:
        yield "folder.val_path does not go with backbone: features: leave it out, val_share is held out"
    if is_ready and stage == "simclr":
        yield "backbone is features, which cannot be trained: give setup: pretrained, and run pretrained.py"
    names = ["folder.features", "folder.files"] * is_ready
    names += ["folder.path"] * ("folder" in data_sets and not is_ready and stage != "eval")
    for name in names:
        if name not in values:
            yield f"{name} is missing: give it as {name}=... ({KEYS[name].meaning})"
    run = Path(values["run_name"])
    if run.is_absolute() or ".." in run.parts:
        yield f"run_name {as_written(values['run_name'])} leads out of root_dir: give a name and root_dir=..."
    if stage not in CRITERIA:
        return  # nothing is trained
    for name, value in values.items():
        group, _, term = name.partition(".")
        if group == "criterion_kwargs" and term not in own[criterion]:
            value = shorten(str(value))
            yield f"{name} is {value}, but criterion: {criterion} has no such term; leave it out"
    prior, count = values.get("criterion_kwargs.cluster_prior"), values.get("num_classes")
    if prior is not None and len(prior) != count:
        yield f"criterion_kwargs.cluster_prior has {len(prior)} numbers, num_classes is {count}: give as many"
    cutout = {name.rpartition(".")[2] for name in values if ".cutout_kwargs." in name}
    if cutout and values["augmentation_strategy"] == "affine" and (missing := {"n_holes", "length"} - cutout):
        name = f"augmentation_kwargs.cutout_kwargs.{min(missing)}"
        yield f"{name} is missing: give it, or leave cutout_kwargs out, which is optional with affine"
    yield from _mistakes_of_heads(values, stage)
    nesterov, momentum = (values.get(f"optimizer_kwargs.{name}") for name in ("nesterov", "momentum"))
    if values["optimizer"] == "sgd" and nesterov and not momentum:
        yield "optimizer_kwargs.nesterov is True with momentum 0: give a momentum, or nesterov: False"
    if stage == "selflabel" and values["num_heads"] != 1:
        yield f"num_heads is {values['num_heads']}: selflabel.py trains the best head only; use num_heads: 1"


def _mistakes_of_heads(values: Mapping[str, Any], stage: str) -> Iterator[str]:
    """What is wrong with the settings of heads on a frozen backbone."""
    if names := _for_frozen(values, stage):
        remedy = "leave that out, or give update_cluster_head_only: True"
        yield f"{', '.join(names)}, which is for heads on a frozen backbone: {remedy}"
    is_plain = values["augmentation_strategy"] == "plain"
    if values["criterion"] == "temi" and not is_plain:
        yield "criterion is temi, for frozen features of the plain view: give augmentation_strategy: plain"
    if is_plain and values.get("cached_views"):
        yield f"cached_views is {values['cached_views']}, but plain views are all alike: leave it out"
    if values.get("head_start") == "kmeans" and values.get("head_form") == "mlp":
        yield "head_start is kmeans, which is for linear heads: give head_form: linear, or head_start: random"


def _for_frozen(values: Mapping[str, Any], stage: str) -> list[str]:
    """The settings that only heads on a frozen backbone read, if this config trains more."""
    if values.get("update_cluster_head_only"):
        return []
    is_scan, found = stage == "scan", {"augmentation_strategy": "plain", "criterion": "temi"}
    names = [name for name, value in found.items() if values.get(name) == value]
    names += [name for name in ("feature_pca", "head_start") if is_scan and name in values]
    names += ["backbone"] * (is_scan and values["backbone"] == "features")
    names += ["cached_views"] * bool(values.get("cached_views"))
    return [f"{name} is {values[name]}" for name in names]


def save_config(cfg: EasyDict, path: str | Path) -> None:
    """Write cfg as YAML, whole or not at all. What follows from the place of the file is left out."""
    values = {name: to_yaml(name, value) for name, value in to_store(flatten(cfg)).items()}
    text = yaml.safe_dump(_nest(values), encoding="utf-8", sort_keys=False, default_flow_style=None)
    write_whole({Path(path): text})


def resume_differences(saved: EasyDict, current: EasyDict) -> list[str]:
    """Lines such as `batch_size: 128 -> 256`, one for each difference that makes another run."""
    old, new = _fixed(saved), _fixed(current)
    names = [name for name in KEYS if old.get(name) != new.get(name)]
    return [f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}" for name in names]


def config_hash(cfg: EasyDict) -> str:
    """SHA-256 of the settings that make a run what it is: those that a resume may not change."""
    return hashlib.sha256(json.dumps(_fixed(cfg)).encode()).hexdigest()


def view_differences(trained: EasyDict, current: EasyDict) -> list[str]:
    """Those of `resume_differences` with which a model sees or computes other things than in its training."""
    return [line for line in resume_differences(trained, current) if line.startswith(OF_A_MODEL)]


def _fixed(cfg: EasyDict) -> dict[str, Any]:
    """{dotted name: value} of the settings that a resume may not change, in the order of the table."""
    values = flatten(cfg)
    free = [key.name for key in KEYS.values() if _is_for(values.get("setup"), key.may_change)]
    return {name: values[name] for name in KEYS if name in values and name not in free}


def _is_for(stage: str | None, stages: str) -> bool:
    return stages == "all" or stage in stages.split()


def _is_needed(key: Key, stage: str, values: Mapping[str, Any]) -> bool:
    other, condition, accepted = key.needed.rpartition("=")
    if not condition:
        return _is_for(stage, accepted)
    return _is_needed(KEYS[other], stage, values) and str(values.get(other)) in accepted.split()


def _read_file(path: str | Path) -> dict[str, Any]:
    try:
        content = Path(path).read_bytes()
    except IsADirectoryError as error:
        file = Path(path, "config.yml")
        raise UserError(f"{path} is a folder: give the config in it, such as {file}") from error
    except FileNotFoundError as error:
        configs = beside_scripts("configs")
        shipped = {file.name: str(file) for file in Path(configs).rglob("*.yml")}
        near = difflib.get_close_matches(Path(path).name, shipped, n=1, cutoff=0.6)
        hint = f"did you mean {shipped[near[0]]}?" if near else f"give one of those under {configs}/"
        raise UserError(f"cannot read config {Path(path).absolute()}: {error.strerror}; {hint}") from error
    except OSError as error:
        raise UserError(explain(error, path, "read")) from error
    tree = parse_yaml(content, str(path))
    if not isinstance(tree, dict | None):
        raise UserError(f"{path}: should be a mapping, lines of `key: value`, not {as_written(tree)}")
    return _typed(tree or {}, str(path))


def _typed(tree: Mapping[str, Any], source: str, prefix: str = "") -> dict[str, Any]:
    """A parsed mapping as {dotted name: value}. Raises UserError for an unknown key or a wrong value."""
    values = {}
    for word, raw in tree.items():
        name = prefix + ("null" if word is None else word)
        if name in GROUPS:
            if not isinstance(raw, dict):
                raise UserError(f"{source}: {name} should be a mapping of keys, not {as_written(raw)}")
            values |= _typed(raw, source, f"{name}.")
        elif name in KEYS:
            try:
                values[name] = parse_value(KEYS[name], raw)
            except UserError as error:
                raise UserError(f"{source}: {name} {error}") from error
            except (ValueError, KeyError) as error:
                should = f"should be {expected(KEYS[name])} ({KEYS[name].meaning}), not {as_written(raw)}"
                raise UserError(f"{source}: {name} {should}") from error
        else:
            names = sorted({*KEYS, *GROUPS})
            moved = [other for other in names if other.rpartition(".")[2] == name.rpartition(".")[2]]
            nearest = difflib.get_close_matches(shorten(name), moved or names, n=1, cutoff=0)[0]
            raise UserError(f"{source}: unknown key {shorten(repr(name))}; the nearest one is {nearest!r}")
    return values


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as {dotted name: value}."""
    values = {}
    for word, value in tree.items():
        values |= flatten(value, f"{prefix}{word}.") if isinstance(value, dict) else {prefix + word: value}
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
