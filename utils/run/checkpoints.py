"""The checkpoint of a run and the one before it: at any moment, one of the two is whole."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.distributed import from_main, share_weights, world_size
from utils.errors import RunError, UserError
from utils.mypath import written
from utils.run import signals
from utils.run.inputs import shell_line
from utils.run.meter import Meter
from utils.storage.files import read_manifest, save_with_manifest, sha256_of, storage_errors
from utils.storage.state_dicts import load_strictly
from utils.storage.torch_files import read_tensors, to_bytes

REMEDY = "give this run its own run_name=..., or begin anew with --restart, which moves the old files aside"
SAVE_SECONDS = 30  # between the checkpoints of short epochs, as writing one takes time


def previous_of(path: Path) -> Path:
    return path.with_name("previous_" + path.name)


def has_checkpoint(path: Path) -> bool:
    return path.exists() or previous_of(path).exists()


def save_checkpoint(path: Path, content: dict[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write tensors and plain Python types with a manifest; the checkpoint before stays beside it."""
    save_with_manifest(path, to_bytes(content), metadata, previous=previous_of(path))


def load_checkpoint(path: Path) -> tuple[dict[str, Any], str]:
    """The content of the newest whole checkpoint, {} if there is none, and what is wrong with a newer one,
    which is renamed to `damaged_...`. Raises RunError if none is whole."""
    files, digests, faults = (path, previous_of(path)), set(), []
    for file in files:  # a kill between two renames can leave a manifest under the other name
        try:
            if manifest := read_manifest(file):
                digests.add(manifest["sha256"])
        except RunError as error:
            faults.append(str(error))
    has_manifests = bool(digests or faults)
    for file in filter(Path.exists, files):
        try:
            if has_manifests and sha256_of(file) not in digests:
                raise RunError(
                    f"{file} ({file.stat().st_size} bytes) is damaged: no manifest has its SHA-256"
                )
            content = read_tensors(file)
        except (UserError, RunError) as error:
            faults.append(str(error))
            continue
        if file == path:
            return content, ""
        if path.exists():
            with storage_errors(path):
                os.replace(path, path.with_name("damaged_" + path.name))  # the next save must not keep it
        return content, "; ".join(faults)
    if has_checkpoint(path):
        raise RunError(
            f"{'; '.join(faults)}; no whole checkpoint is left: put a copy back, or begin anew with --restart"
        )
    return {}, ""


def place_of(finished: int, begun: dict) -> str:
    """How far a checkpoint is, in words. begun: the state of an epoch that was stopped, {} for none."""
    return f"after epoch {finished}" + (f" and {begun['step']} steps of the next" if begun else "")


class Checkpointer:
    """Saves and restores a run. save_minutes: between two saves within an epoch."""

    def __init__(self, folder, epochs: int, save_minutes: float):
        self.folder, self.epochs, self.save_minutes = folder, epochs, save_minutes
        self.saved: dict[str, Any] = {}  # `model` and `optimizer`, from `restore` on
        self.values: dict[str, Any] = {}  # plain values of the stage after the last whole epoch
        self.finished = self.first_epoch = 0  # epochs
        self.begun: dict = {}  # the meter's state of an epoch that was stopped in its middle
        self.last_save = time.monotonic()

    def restore(self, model, optimizer, values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Load the last checkpoint, if there is one, into model and optimizer, which are saved from now on.

        Returns the values as they were saved, those given where there are none, and warnings for the log.

        Raises UserError for a checkpoint of another run, and if training would replace a model."""
        path = self.folder.checkpoint
        content, fault = from_main(load_checkpoint, path)
        warnings = [f"{fault}; going on from the checkpoint before"] if fault else []
        if content:
            from_main(self._check, content)
            try:
                load_strictly(model, content["model"], path)
                optimizer.load_state_dict(content["optimizer"])
            except (UserError, KeyError, ValueError, TypeError, AttributeError) as error:
                raise UserError(f"{path} is no checkpoint of this run ({error}): {REMEDY}") from error
            values = values | {name: content[name] for name in values if name in content}
            self.finished, self.begun = content["epoch"], content.get("begun_epoch", {})
            if (before := content.get("processes", 1)) != world_size():
                remark = f"begun with {before} processes, going on with {world_size()}"
                warnings.append(f"{remark}: the result is the same up to rounding, not to the last bit")
        elif self.folder.has_result():
            raise UserError(
                f"{self.folder.path} holds a model but no checkpoint, and training would replace the model: "
                f"put the checkpoint back, mine with the model if it is the pretext's (--model), or {REMEDY}"
            )
        share_weights(model)
        self.saved = {"model": model, "optimizer": optimizer}
        self.values = values
        self.first_epoch = self.finished
        self.last_save = time.monotonic()
        return values, warnings

    def _check(self, content: dict) -> None:
        path, folder = self.folder.checkpoint, self.folder.path
        begun = content.get("begun_epoch", {})
        if not {"model", "optimizer", "epoch"} <= content.keys() or type(content["epoch"]) is not int:
            raise UserError(
                f"{path} is no checkpoint of a training run: move it away; if it is a trained pretext model, "
                f"mine with it: {shell_line('--model', written(path))}"
            )
        if not (folder / "config.yml").is_file():
            raise UserError(f"{folder} lacks config.yml, the settings of its checkpoint: {REMEDY}")
        saved = content.get("inputs", {})
        if changed := [name for name, digest in saved.items() if self.folder.inputs.get(name) != digest]:
            raise UserError(f"{folder} began with other {', '.join(changed)} than there are now: {REMEDY}")
        if content["epoch"] + bool(begun) > self.epochs:
            place = place_of(content["epoch"], begun)
            raise UserError(f"{path} is {place}, more than epochs: {self.epochs}; raise epochs, or {REMEDY}")

    def after_step(self, meter: Meter) -> None:
        """Save within the epoch, if it is time or the run is to stop."""
        if signals.agreed(time.monotonic() - self.last_save >= 60 * self.save_minutes):
            meter.averages()  # raises if they are not finite
            self._save(meter.state())

    def end_epoch(self, epoch: int, values: dict[str, Any]) -> None:
        """Save after the first and the last epoch and before a stop; after others if the last save is old."""
        self.finished, self.values = epoch + 1, values
        is_due = epoch in (self.first_epoch, self.epochs - 1)
        if signals.agreed(is_due or time.monotonic() - self.last_save >= SAVE_SECONDS):
            self._save({})

    def _save(self, begun: dict) -> None:
        content = {name: part.state_dict() for name, part in self.saved.items()}
        content |= {"epoch": self.finished, "inputs": self.folder.inputs, "processes": world_size()}
        content |= self.values
        content |= {"begun_epoch": begun} if begun else {}
        metadata = {"holds": f"checkpoint {place_of(self.finished, begun)}"}
        self.folder.check_claim()
        metadata |= self.folder.splits.get("train", {})
        from_main(save_checkpoint, self.folder.checkpoint, content, metadata)
        self.last_save = time.monotonic()
        signals.stop_if_agreed()
