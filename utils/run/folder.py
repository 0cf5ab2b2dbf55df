"""The folder of a run: whose it is, what the stage starts from, and whether it is finished."""

import json
import math
import os
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor

from utils.config import config_hash, load_config, resume_differences, save_config
from utils.distributed import from_main, on_main
from utils.errors import RunError, UserError
from utils.run.checkpoints import REMEDY, has_checkpoint
from utils.run.inputs import check_images, check_same_everywhere, split_metadata, verify_inputs
from utils.run.lock import ELSEWHERE, locked
from utils.stages import KMEANS, MODEL, NEIGHBORS, STAGES
from utils.storage.arrays import to_npy
from utils.storage.files import (
    manifest_path,
    save_with_manifest,
    sha256_of,
    storage_errors,
    verify_manifest,
    write_whole,
)
from utils.storage.torch_files import to_bytes

RESULT_KEYS = ("epochs", "num_neighbors", "feature_layer", "knn_index")  # a resume may change them
WRITTEN = (MODEL, *NEIGHBORS.values(), KMEANS, "checkpoint.pth.tar", "config.yml", "finished.json")


class RunFolder:
    """`root_dir/<run_name>/<stage>` with model, checkpoints, config.yml and log.jsonl.

    inputs: SHA-256 by name of all that the run starts from. manifests: those of the files among them, {} for
    a file that has none and is taken as it is. splits: metadata of the images of `train` and `val`. Nothing
    is written before `claimed`. Raises UserError if the folder holds a run with other settings."""

    def __init__(self, cfg, restart: bool):
        self.cfg, self.restart = cfg, restart
        self.path = Path(cfg.root_dir, cfg.run_name, STAGES[cfg.setup].folder)
        self.checkpoint = self.path / "checkpoint.pth.tar"
        self.ending = self.path / "finished.json"
        self.inputs: dict[str, str] = {}
        self.splits: dict[str, dict[str, Any]] = {}
        self.manifests: dict[Path, dict[str, Any]] = {}
        self.check_claim = lambda: None  # see `locked`
        self._refuse_other_settings()

    @on_main
    def _refuse_other_settings(self) -> None:
        path = self.path / "config.yml"
        is_begun = path.is_file() and (has_checkpoint(self.checkpoint) or self.ending.is_file())
        if self.restart or not is_begun:
            return
        try:
            saved = load_config(os.devnull, path)
        except UserError as error:
            raise UserError(f"{error}; put that right, or {REMEDY}") from error
        if differences := resume_differences(saved, self.cfg):
            shown = textwrap.shorten("; ".join(differences), 400, placeholder=" ...")
            raise UserError(f"{self.path} holds a run with other settings ({shown}): keep those, or {REMEDY}")

    # -- what the stage starts from

    def start_from(self) -> dict[str, Path]:
        """Verify the files of the stage before, and return their paths by name."""
        self.manifests = from_main(verify_inputs, self.cfg)
        self.inputs |= {path.name: sha256_of(path) for path in self.manifests}
        return {path.name: path for path in self.manifests}

    def start_from_weights(self, source: Path | str, state: dict) -> None:
        """Note weights used in place of a training, a file or the `state` of a download. Raises UserError if
        they would replace one here."""
        own, path = [self.checkpoint.resolve(), (self.path / MODEL).resolve()], Path(source)
        if has_checkpoint(self.checkpoint) and path.resolve() not in own and not self.restart:
            raise UserError(
                f"{self.path} holds a training run, and {source} would replace its model: {REMEDY}"
            )
        is_file = path.is_file()
        self.inputs["weights"] = sha256_of(path) if is_file else sha256(to_bytes(state)).hexdigest()

    def use_images(self, train_set, val_set) -> None:
        """Note the images, and check that the files of the stage before were made from them."""
        names = {"train": (self.cfg.train_db_name, train_set), "val": (self.cfg.val_db_name, val_set)}
        self.splits |= {split: split_metadata(name, split, data) for split, (name, data) in names.items()}
        self.inputs |= {f"{split} images": meta["images_sha256"] for split, meta in self.splits.items()}
        check_same_everywhere(self.inputs)
        check_images(self.cfg, self.manifests, self.splits)

    # -- from here on files change

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder and lock it. With `restart`, what it holds is moved aside, to `<folder>.old-1` and
        so on. Raises UserError if meanwhile a run with other settings has been here."""
        with ExitStack() as lock:
            from_main(self._claim, lock)
            yield

    def _claim(self, lock: ExitStack) -> None:
        with storage_errors(self.path, elsewhere=ELSEWHERE):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self.check_claim = lock.enter_context(locked(self.path))
        self._refuse_other_settings()
        with storage_errors(self.path, elsewhere=ELSEWHERE):
            if self.restart and self.path.exists():
                move_aside(self.path)
            self.path.mkdir(exist_ok=True)
            for name in WRITTEN:
                for left_by_a_killed_run in self.path.glob(f"{name}*.part"):
                    left_by_a_killed_run.unlink()

    @on_main
    def open(self) -> None:
        """Write the settings; the stage is not finished any more."""
        with storage_errors(self.ending):
            self.ending.unlink(missing_ok=True)
        save_config(self.cfg, self.path / "config.yml")

    @on_main
    def has_checkpoint(self) -> bool:
        """Whether the run will go on from a checkpoint."""
        return has_checkpoint(self.checkpoint) and not self.restart

    @on_main
    def has_result(self) -> bool:
        """Whether training would replace a model. SCAN writes its own before its first checkpoint."""
        model = self.path / MODEL
        is_begun = self.cfg.setup == "scan" and manifest_path(model).is_file() and not self.ending.is_file()
        return model.is_file() and not is_begun

    @on_main
    def save_model(self, content: dict, **values) -> None:
        """Write model.pth.tar, tensors and plain values. values: what else its manifest says."""
        metadata = {"holds": f"model of {self.cfg.setup}", **self.splits["train"], "made_from": self.inputs}
        self.check_claim()
        save_with_manifest(self.path / MODEL, to_bytes(content), metadata | values)

    @on_main
    def loss_of_model(self, best: float) -> float:
        """The loss with which model.pth.tar was saved; `best`, the run's lowest, if its manifest has none;
        infinite if no whole model is there.

        A kill leaves a model that is later than the checkpoint: only a better one may take its place."""
        with suppress(RunError):
            if (path := self.path / MODEL).is_file():
                return (verify_manifest(path) or {}).get("loss", best)
        return math.inf

    @on_main
    def save_neighbors(self, split: str, content: bytes, topk: int) -> None:
        """Write the neighbor file of a split and its manifest, which names the weights it was mined with."""
        metadata = {"holds": "nearest neighbors", **self.splits[split], "topk": topk}
        metadata["weights_sha256"] = sha256_of(self.path / MODEL)
        save_with_manifest(self.path / NEIGHBORS[split], content, metadata)

    @on_main
    def save_kmeans(self, centres: Tensor) -> None:
        """Write the centres (K, D) of the baseline k-means and their manifest."""
        metadata = {"holds": "centres of k-means on the features of step 1", **self.splits["train"]}
        save_with_manifest(self.path / KMEANS, to_npy(centres), metadata)

    # -- the end

    @on_main
    def finish(self) -> None:
        """Write finished.json: the stage has come to its end, with these settings, inputs and results."""
        write_whole({self.ending: self._description()})

    @on_main
    def is_finished(self) -> bool:
        """Whether the stage has ended here with this config, and with the inputs and results of now."""
        if self.restart or not self.ending.is_file():
            return False
        with storage_errors(self.ending, "read"):
            return self.ending.read_bytes() == self._description()

    def _description(self) -> bytes:
        names = [name for name in STAGES[self.cfg.setup].leaves if (self.path / name).is_file()]
        content = {
            "settings": config_hash(self.cfg),
            **{name: self.cfg.get(name) for name in RESULT_KEYS},
            "began_with": self.inputs,
            "left": {name: sha256_of(self.path / name) for name in names},
        }
        return json.dumps(content, indent=1).encode()


def move_aside(folder: Path) -> None:
    """Rename a folder to the first of `<folder>.old-1`, `.old-2` ... that is free, whoever else does so."""
    for number in count(1):
        aside = folder.with_name(f"{folder.name}.old-{number}")
        try:
            return os.rename(folder, aside)  # fails for a name that is taken
        except OSError:
            if not aside.exists():
                raise
