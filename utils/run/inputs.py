"""What the stages hand on to each other: the record of a file says what it was made from, and it must fit."""

import json
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from utils.config import check_stage, load_config
from utils.errors import UserError
from utils.stages import MODEL, NEIGHBORS, SCRIPT_OF, STAGES
from utils.storage.files import read_manifest, sha256_of, verify_manifest


def split_metadata(name: str, split: str, dataset) -> dict[str, Any]:
    """What a record says of the images that a file was made from; their labels are not in it."""
    return {"data_set": name, "split": split, "images": len(dataset), "images_sha256": dataset.fingerprint}


class Handover:
    """The files `names` of the stage before, as they lie in its folder. `digests`: name -> SHA-256.

    Raises UserError for a missing file and for neighbors that were mined with other weights than lie beside them,
    RunError for a damaged file. Files without a record are taken as they are: `unrecorded` names them."""

    def __init__(self, cfg, folder: Path, names: tuple[str, ...]):
        self.cfg, self.folder, self.stage = cfg, folder, STAGES[cfg.setup].starts_from
        trained = not (folder / MODEL).is_file() or (folder / "checkpoint.pth.tar").exists()
        for path in (folder / name for name in names):
            if not path.is_file():
                command = command_for(
                    cfg, self.stage, folder, *(() if trained else ("--model", str(folder / MODEL)))
                )
                raise UserError(
                    f"{path} not found, which {cfg.setup}.py starts from: make it with `{command}`, or name the folder "
                    f"that has it in {self.stage}_dir=..."
                )
        self.records = {name: record for name in names if (record := verify_manifest(folder / name))}
        self.unrecorded = [name for name in names if name not in self.records]
        self.digests = {name: sha256_of(folder / name) for name in names}
        for name, record in self.records.items():
            if record.get("weights_sha256", self.digests[MODEL]) != self.digests[MODEL]:
                command = command_for(cfg, self.stage, folder, "--model", str(folder / MODEL))
                raise UserError(
                    f"{folder / name} is stale, mined with other weights than {MODEL} beside it holds: mine again with "
                    f"`{command}`"
                )

    def check_data(self, facts: dict[str, dict[str, Any]]) -> None:
        """Raise UserError for a file made from other images than `facts` says of each split."""
        for name, record in self.records.items():
            now = facts["val" if name == NEIGHBORS["val"] else "train"]
            made = {key: record.get(key) for key in now}
            if made != now:
                own = Path(self.cfg.root_dir, self.cfg.run_name, self.stage)
                is_own = own.resolve() == self.folder.resolve()
                command = command_for(self.cfg, self.stage, own, *(["--restart"] if is_own else []))
                place = "" if is_own else f" and give {self.stage}_dir={own}"
                raise UserError(
                    f"{self.folder / name} was made from {_describe(made)}, but this run has {_describe(now)}"
                    f"{', others' * (_describe(made) == _describe(now))}: make the right one with "
                    f"`{command}`{place}, or give this run that data set, "
                    "max_images and transformation_kwargs.crop_size"
                )


def check_data_set(cfg, path: Path) -> None:
    """Raise UserError if a model's record names another data set than the config was made for."""
    made = (read_manifest(path) or {}).get("data_set", cfg.train_db_name)
    if made != cfg.train_db_name:
        raise UserError(
            f"{path} was trained on {made}, but this config is for train_db_name: {cfg.train_db_name}; give the config "
            f"of {made} (with val_db_name=... it is evaluated on other images)"
        )


def ending(cfg, folder: Path, epochs: int, began_with: dict[str, str]) -> bytes:
    """What finished.json holds when a stage has ended after so many epochs: of its settings those that may change, and
    the SHA-256 of what it began with and of the files that it leaves to the next one."""
    names = [name for name in (MODEL, *NEIGHBORS.values()) if (folder / name).is_file()]
    facts = {
        "epochs": epochs,
        **{name: cfg.get(name) for name in ("num_neighbors", "feature_layer", "knn_index")},
        "began_with": began_with,
        "left": {name: sha256_of(folder / name) for name in names},
    }
    return json.dumps(facts, indent=1).encode()


def _describe(facts: dict[str, Any]) -> str:
    return f"{facts['images']} {facts['split']} images of {facts['data_set']}"


def command_for(cfg, stage: str, folder: Path, *options: str) -> str:
    """The command that fills `folder`, `root_dir/<run_name>/<stage>`, for the data set of cfg, to paste in a shell."""
    script, path, made = SCRIPT_OF[stage], "CONFIG", {"root_dir": "results", "on_error": "stop"}
    own = (
        {f"folder.{key}": value for key, value in cfg.folder.items()} if cfg.train_db_name == "folder" else {}
    )
    for candidate in (
        *sorted(Path("configs", stage).glob("*.yml")),
        folder / "config.yml",
    ):  # the last fit wins
        with suppress(UserError):
            written = load_config(None, candidate)
            config = load_config(None, candidate, [f"{key}={value}" for key, value in own.items()])
            check_stage(config, config.get("setup"))
            fits_best = config.run_name == folder.parent.name or candidate.parent == folder
            if config.train_db_name == cfg.train_db_name and (fits_best or path == "CONFIG"):
                script, path, made = f"{config.setup}.py", candidate, dict(written)
                made |= {f"folder.{key}": value for key, value in written.folder.items()}
    wanted = {"max_images": cfg.get("max_images"), "on_error": cfg.get("on_error")}
    if folder.name == stage and folder.parent.name:
        wanted |= {"root_dir": str(folder.parent.parent), "run_name": folder.parent.name}
    overrides = [
        f"{key}={value}" for key, value in (wanted | own).items() if value not in (None, made.get(key))
    ]
    return shlex.join(["python", script, "--config_exp", str(path), *overrides, *options])
