"""Where a run lies: what follows from other settings, or from the place of its own config.yml."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.stages import MODEL, STAGES

DIRS = ("pretext_dir", "scan_dir")
LEFT_BY_A_RUN = ("log.jsonl", MODEL, "checkpoint.pth.tar")


def derived(values: Mapping[str, Any]) -> dict[str, str]:
    """The run's name and the folders of steps 1 and 2, for those that the user does not give."""
    names = {}
    if data_set := values.get("train_db_name"):
        own = values.get("folder.path") if data_set == "folder" else None
        names["run_name"] = (own and Path(os.path.abspath(own)).name) or data_set
    if run := values.get("run_name") or names.get("run_name"):
        names |= {
            f"{stage}_dir": os.path.join(values["root_dir"], run, stage) for stage in ("pretext", "scan")
        }
    return names


def values_from_place(path: str | Path, values: Mapping[str, Any]) -> dict[str, str]:
    """What the place of a config says, if it is a run's own, `<root_dir>/<run_name>/<stage>/config.yml`.

    These win over the file's values: the tree may have been copied, moved or renamed since; the name of the
    stage's folder may go on, as in `scan.old-1` and `scan (copy)`. Folders in the tree keep their place
    relative to the file. {} for any other config."""
    stage = STAGES[values["setup"]].folder if values.get("setup") in STAGES else ""
    folder = Path(os.path.abspath(path)).parent
    is_own = Path(path).name == "config.yml" and stage and folder.name.startswith(stage)
    if not is_own or not any((folder / name).exists() for name in LEFT_BY_A_RUN):
        return {}

    def shown(place) -> str:
        return os.path.normpath(place) if os.path.isabs(path) else os.path.relpath(place)

    former, name = values.get("root_dir"), values.get("run_name", "name")
    depth = len(Path(name).parts)  # a run of a sweep has a name such as digits/sweep/a
    run, root = folder.parent, folder.parents[min(depth, len(folder.parents) - 1)]
    places = {"root_dir": shown(root), "run_name": str(run.relative_to(root))}
    for key in DIRS:
        if former and key in values and Path(values[key]).is_relative_to(former):
            way = os.path.relpath(values[key], os.path.join(former, name, stage))
            places[key] = shown(run / stage / way)
    return places


def to_store(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values without those that `derived` and `values_from_place` give back. A folder in the tree is
    written by way of root_dir, any other with its whole path."""
    known, root = derived(values) | {"root_dir": values["root_dir"]}, values["root_dir"]
    stored = {name: value for name, value in values.items() if known.get(name) != value}
    for key in stored.keys() & {*DIRS}:
        stored[key] = os.path.abspath(stored[key])
        if Path(stored[key]).is_relative_to(os.path.abspath(root)):
            stored[key] = os.path.join(root, os.path.relpath(stored[key], root))
            stored |= {"root_dir": root, "run_name": values["run_name"]}
    return stored
