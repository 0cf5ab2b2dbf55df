"""What a stage starts from: the files of the stage before, each verified by its manifest."""

import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from easydict import EasyDict

from utils.config import check_stage, load_config
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
        self.cfg, self.stage = cfg, stage.starts_from
        self.folder = Path(cfg[f"{self.stage}_dir"])
        trained = not (self.folder / MODEL).is_file() or (self.folder / "checkpoint.pth.tar").exists()
        mine_again = ("--model", str(self.folder / MODEL))
        for name in stage.needs:
            if not (self.folder / name).is_file():
                raise UserError(
                    f"{self.folder / name} not found, which {stage.script} starts from: make it with "
                    f"`{command_for(cfg, self.stage, self.folder, *(() if trained else mine_again))}`, or "
                    f"name the folder that has it in {self.stage}_dir=..."
                )
        manifests = {name: verify_manifest(self.folder / name) for name in stage.needs}
        self.manifests = {name: manifest for name, manifest in manifests.items() if manifest}
        self.unverified = [name for name in stage.needs if name not in self.manifests]
        self.digests = {name: sha256_of(self.folder / name) for name in stage.needs}
        for name, manifest in self.manifests.items():
            if manifest.get("weights_sha256", self.digests[MODEL]) != self.digests[MODEL]:
                raise UserError(
                    f"{self.folder / name} is stale: it was mined with other weights than {MODEL} beside "
                    f"it; mine again with `{command_for(cfg, self.stage, self.folder, *mine_again)}`"
                )

    def check_images(self, splits: dict[str, dict[str, Any]]) -> None:
        """Raise UserError for a file made from other images than `splits` describes (see
        `split_metadata`)."""
        for name, manifest in self.manifests.items():
            now = splits["val" if name == NEIGHBORS["val"] else "train"]
            made = {key: manifest.get(key) for key in now}
            if made != now:
                own = Path(self.cfg.root_dir, self.cfg.run_name, self.stage)
                is_own = own.resolve() == self.folder.resolve()
                command = command_for(self.cfg, self.stage, own, *(["--restart"] if is_own else []))
                raise UserError(
                    f"{self.folder / name} was made from {_images_in_words(made)}, but this run has "
                    f"{'other ' * (_images_in_words(made) == _images_in_words(now))}{_images_in_words(now)}: "
                    "make the right one with "
                    f"`{command}`{'' if is_own else f' and give {self.stage}_dir={own}'}, or give this run "
                    "that data set, max_images and transformation_kwargs.crop_size"
                )


def check_data_set(cfg, path: Path) -> None:
    """Raise UserError if a model's manifest names another data set than the config was made for."""
    made = (read_manifest(path) or {}).get("data_set", cfg.train_db_name)
    if made != cfg.train_db_name:
        raise UserError(
            f"{path} was trained on {made}, but this config has train_db_name: {cfg.train_db_name}; give "
            f"the config of {made} (with val_db_name=... it is evaluated on other images)"
        )


def _images_in_words(metadata: dict[str, Any]) -> str:
    return f"{metadata['images']} {metadata['split']} images of {metadata['data_set']}"


def command_for(cfg, stage: str, folder: Path, *options: str) -> str:
    """The command that fills `folder`, root_dir/<run_name>/<stage>, for the data set of cfg, to paste in a
    shell.

    It takes the folder's own config.yml, else a config of that run or data set under configs/."""
    script, path, made = SCRIPT_OF[stage], Path("CONFIG"), {}
    for candidate in (
        *sorted(Path("configs", stage).glob("*.yml")),
        folder / "config.yml",
    ):  # the last fit wins
        with suppress(UserError):
            config = load_config(None, candidate)
            check_stage(EasyDict({**config, "folder": cfg.folder}), config.get("setup"))
            fits_best = config.run_name == folder.parent.name or candidate.parent == folder
            if config.train_db_name == cfg.train_db_name and (fits_best or not made):
                script, path, made = f"{config.setup}.py", candidate, _flat(config)
    wanted = {"max_images": cfg.get("max_images"), "on_error": cfg.get("on_error", "stop")}
    if folder.name == stage and folder.parent.name:
        wanted |= {"root_dir": str(folder.parent.parent), "run_name": folder.parent.name}
    if cfg.train_db_name == "folder":
        wanted |= {f"folder.{key}": value for key, value in cfg.folder.items()}
    overrides = [f"{key}={value}" for key, value in wanted.items() if value not in (None, made.get(key))]
    return shlex.join(["python", script, "--config_exp", str(path), *overrides, *options])


def _flat(config) -> dict[str, Any]:
    return {**config, **{f"folder.{key}": value for key, value in config.folder.items()}}
