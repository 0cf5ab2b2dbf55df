"""What a stage starts from: the files of the stage before, each verified by its manifest."""

import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from utils.config import load_config
from utils.errors import UserError
from utils.stages import MODEL, NEIGHBORS, SCRIPT_OF, STAGES
from utils.storage.files import read_manifest, sha256_of, verify_manifest


def split_metadata(name: str, split: str, dataset) -> dict[str, Any]:
    """What a manifest says of the images that a file was made from; labels are not in it."""
    return {"data_set": name, "split": split, "images": len(dataset), "images_sha256": dataset.fingerprint}


class Inputs:
    """The files that a stage needs, in the folder of the stage before. `digests`: name -> SHA-256.

    Raises UserError for a missing file and for neighbors that were mined with other weights than lie beside
    them, RunError for a damaged file. A file without a manifest is taken as it is; `unverified` names it."""

    def __init__(self, cfg):
        stage = STAGES[cfg.setup]
        self.cfg, self.stage, self.folder = cfg, stage.starts_from, Path(cfg[f"{stage.starts_from}_dir"])
        for name in stage.needs:
            if not (self.folder / name).is_file():
                raise UserError(
                    f"{self.folder / name} not found, which {stage.script} starts from: make it with "
                    f"`{self._command()}`, or name the folder that has it in {self.stage}_dir=..."
                )
        manifests = {name: verify_manifest(self.folder / name) for name in stage.needs}
        self.manifests = {name: manifest for name, manifest in manifests.items() if manifest}
        self.unverified = [self.folder / name for name in stage.needs if name not in self.manifests]
        self.digests = {
            name: manifest["sha256"] if manifest else sha256_of(self.folder / name)
            for name, manifest in manifests.items()
        }
        for name, manifest in self.manifests.items():
            if manifest.get("weights_sha256", self.digests[MODEL]) != self.digests[MODEL]:
                raise UserError(
                    f"{self.folder / name} is stale, mined with other weights than {MODEL} beside it: mine "
                    f"again with `{self._command(mine=True)}`"
                )

    def _command(self, mine: bool = False) -> str:
        """What makes the folder's files. A model that was not trained there is kept, and mined with."""
        model = self.folder / MODEL
        mine = mine or (model.is_file() and not (self.folder / "checkpoint.pth.tar").exists())
        return command_for(self.cfg, self.stage, self.folder, *["--model", str(model)] * mine)

    def check_images(self, splits: dict[str, dict[str, Any]]) -> None:
        """Raise UserError for a file made from other images than `splits` describes, see `split_metadata`."""
        for name, manifest in self.manifests.items():
            now = splits["val" if name == NEIGHBORS["val"] else "train"]
            made = {key: manifest.get(key) for key in now}
            if made == now:
                continue
            own = Path(self.cfg.root_dir, self.cfg.run_name, self.stage)
            remedy = f"make the right one with `{command_for(self.cfg, self.stage, own, '--restart')}`"
            if own.resolve() != self.folder.resolve():
                remedy = f"run `{command_for(self.cfg, self.stage, own)}` and give {self.stage}_dir={own}"
            told = [f"{each['images']} {each['split']} images of {each['data_set']}" for each in (made, now)]
            other = "other " if told[0] == told[1] else ""
            raise UserError(
                f"{self.folder / name} was made from {told[0]}, but this run has {other}{told[1]}: {remedy}, "
                "or give this run that data set, max_images and crop_size"
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
    """The command that fills `folder`, root_dir/<run_name>/<stage>, for the data set of cfg, to paste in a
    shell.

    It takes the folder's own config.yml, else a config of that run or data set under configs/. Those that are
    damaged or of another stage are passed over."""
    shipped = sorted(Path("configs", stage).glob("*.yml"))
    paths = [path for path in [folder / "config.yml"] if path.is_file()]
    for key, value in (("run_name", folder.parent.name), ("train_db_name", cfg.train_db_name)):
        line = re.compile(rf"^{key}: {re.escape(value)}\s*(#|$)", re.MULTILINE)
        paths += [path for path in shipped if line.search(path.read_text("utf-8", errors="replace"))]
    path, made = Path("CONFIG"), {"setup": SCRIPT_OF[stage].removesuffix(".py"), "folder": {}}
    for candidate in paths:
        with suppress(UserError):
            config = load_config(None, candidate)
            if config.get("setup") in STAGES and STAGES[config.setup].folder == stage:
                path, made = candidate, config
                break
    wanted = {"max_images": cfg.get("max_images"), "on_error": cfg.get("on_error")}
    if folder.name == stage and folder.parent.name:
        wanted |= {"root_dir": str(folder.parent.parent), "run_name": folder.parent.name}
    overrides = [f"{key}={value}" for key, value in wanted.items() if value not in (None, made.get(key))]
    own = cfg.folder.items() if cfg.train_db_name == "folder" else ()
    overrides += [f"folder.{key}={value}" for key, value in own if value != made["folder"].get(key)]
    script = STAGES[made["setup"]].script
    return shlex.join(["python", script, "--config_exp", str(path), *overrides, *options])
