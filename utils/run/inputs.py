"""What a stage starts from: the files of the stage before, each verified by its manifest."""

import os
import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from utils.config import load_config
from utils.config.load import flatten, view_differences
from utils.config.values import write_override
from utils.distributed import everywhere_equal
from utils.errors import UserError
from utils.mypath import SCRIPTS, written
from utils.stages import MODEL, NEIGHBORS, SCRIPT_OF, STAGES
from utils.storage.files import read_manifest, sha256_of, verify_manifest


def split_metadata(name: str, split: str, dataset) -> dict[str, Any]:
    """What a manifest says of the images that a file was made from; labels are not in it."""
    return {"data_set": name, "split": split, "images": len(dataset), "images_sha256": dataset.fingerprint}


def verify_inputs(cfg) -> dict[Path, dict[str, Any]]:
    """The files that a stage needs, in the folder of the stage before, each with its manifest, {} for none.

    Raises UserError for a missing file and for neighbors that were mined with other weights than lie beside
    them, RunError for a damaged file."""
    stage, manifests = STAGES[cfg.setup], {}
    source, folder = stage.starts_from, Path(cfg[f"{stage.starts_from}_dir"])
    model = folder / MODEL
    for path in [folder / name for name in stage.needs]:
        if not path.is_file():
            is_given = model.is_file() and not (folder / "checkpoint.pth.tar").exists()  # not trained there
            command = command_for(cfg, source, folder, *["--model", written(model)] * is_given)
            raise UserError(
                f"{path} not found, which {stage.script} starts from: make it with `{command}`, or name the "
                f"folder that has it in {source}_dir=..."
            )
        manifests[path] = verify_manifest(path) or {}
        if manifests[path].get("weights_sha256") not in (None, sha256_of(model)):
            command = command_for(cfg, source, folder, "--model", written(model))
            raise UserError(
                f"{path} is stale, mined with other weights than {MODEL} beside it: mine again with "
                f"`{command}`"
            )
    return manifests


def other_view_than_step_1(cfg) -> str:
    """What differs between the plain view of step 1, as its config.yml has it, and that of cfg; "" if nothing
    does or it is not known."""
    with suppress(UserError):
        lines = view_differences(load_config(os.devnull, Path(cfg.pretext_dir, "config.yml")), cfg)
        return "; ".join(line for line in lines if line.startswith("transformation_kwargs."))
    return ""


def check_same_everywhere(digests: Any) -> None:
    """Raise UserError unless all processes of the run have the same digests of what they have read."""
    if not everywhere_equal(digests):
        remedy = "give all machines the same files, and the same paths to them"
        raise UserError(f"the processes do not see the same images or weights: {remedy}")


def check_images(cfg, manifests: dict[Path, dict[str, Any]], splits: dict[str, dict[str, Any]]) -> None:
    """Raise UserError for an input made from other images than `splits` describes, see `split_metadata`."""
    for path, manifest in manifests.items():
        now = splits["val" if path.name == NEIGHBORS["val"] else "train"]
        made = {key: manifest.get(key) for key in now}
        if not manifest or made == now:
            continue
        source = STAGES[cfg.setup].starts_from
        own = Path(cfg.root_dir, cfg.run_name, source)
        remedy = f"make the right one with `{command_for(cfg, source, own, '--restart')}`"
        if own.resolve() != path.parent.resolve():
            give = shell_line(write_override(f"{source}_dir", own))
            remedy = f"run `{command_for(cfg, source, own)}` and give {give}"
        told = [f"{each['images']} {each['split']} images of {each['data_set']}" for each in (made, now)]
        other = "other " if told[0] == told[1] else ""
        raise UserError(
            f"{path} was made from {told[0]}, but this run has {other}{told[1]}: {remedy}, or give this run "
            "that data set, max_images, crop_size and resize"
        )


def check_data_set(cfg, path: Path) -> None:
    """Raise UserError if a model's manifest names another data set than the config was made for."""
    made = (read_manifest(path) or {}).get("data_set", cfg.train_db_name)
    if made != cfg.train_db_name:
        raise UserError(
            f"{path} was trained on {made}, but this config has train_db_name: {cfg.train_db_name}; give "
            f"the config of {made} (with val_db_name=... it is evaluated on other images)"
        )


def command_for(cfg, stage: str, folder: Path, *options: str) -> str:
    """The command that fills `folder`, root_dir/<run_name>/<stage>, for the data set of cfg: for a shell.

    It takes the folder's own config.yml, else a config of that run or data set under configs/, of the same
    backbone if there is one. Those that are missing, damaged or of another stage are passed over."""
    here = Path.cwd()
    root = SCRIPTS.relative_to(here) if SCRIPTS.is_relative_to(here) else SCRIPTS
    texts = {
        path: path.read_text("utf-8", errors="replace") for path in (root / "configs" / stage).glob("*.yml")
    }
    shipped = sorted(texts, key=lambda path: (f"\nbackbone: {cfg.backbone}" not in texts[path], path))
    paths = [folder / "config.yml"]
    for key, value in (("run_name", folder.parent.name), ("train_db_name", cfg.train_db_name)):
        line = re.compile(rf"^{key}: {re.escape(value)}\s*(#|$)", re.MULTILINE)
        paths += [path for path in shipped if line.search(texts[path])]
    path, made = Path("CONFIG"), {"setup": SCRIPT_OF[stage].removesuffix(".py")}
    for candidate in paths:
        with suppress(UserError):
            config = load_config(None, candidate)
            if config.get("setup") in STAGES and STAGES[config.setup].folder == stage:
                path, made = candidate, config
                break
    of_data = ("max_images", "on_error", "db_root_dir.", *["folder."] * (cfg.train_db_name == "folder"))
    of_data = (*of_data, *["backbone"] * (not cfg.backbone.startswith("resnet")))
    wanted = {key: value for key, value in flatten(cfg).items() if key.startswith(of_data)}
    run = folder.parent if folder.parent.name.strip(".") else Path(os.path.abspath(folder.parent))
    place = Path(made.get("root_dir", ""), made.get("run_name", ""), stage)
    if folder.name == stage and run.name and folder != place:
        wanted |= {"root_dir": str(run.parent), "run_name": run.name}
    had = flatten(made)
    overrides = [write_override(key, value) for key, value in wanted.items() if value != had.get(key)]
    script = str(root / STAGES[made["setup"]].script)
    return shell_line("python", script, "--config_exp", written(path), *overrides, *options)


def shell_line(*words: str) -> str:
    """Words as a line to paste into a shell; what a terminal does not show is written in codes."""

    def quoted(word: str) -> str:
        if word.isprintable():
            return shlex.quote(word)
        hidden = re.compile(rb"[^ -~]|['\\]")
        codes = hidden.sub(lambda byte: b"\\x%02x" % byte[0][0], os.fsencode(word))
        return f"$'{codes.decode()}'"

    return " ".join(map(quoted, words))
