"""A run of one stage: its folder, what it starts from, its checkpoints and log, and how it ends."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from easydict import EasyDict
from torch import Tensor, nn
from torch.optim import Optimizer

from utils.config import load_config, resume_differences, save_config
from utils.console import say
from utils.device import choose_device
from utils.errors import RunError, UserError
from utils.neighbors.search import neighbors_to_bytes
from utils.run import signals as stopping
from utils.run.checkpoints import has_checkpoint, load_checkpoint, place_of, save_checkpoint
from utils.run.inputs import Handover, ending, split_metadata
from utils.run.lock import claim
from utils.run.logger import Logger
from utils.run.meter import Progress
from utils.stages import MODEL, NEIGHBORS, STAGES
from utils.storage.files import save_with_manifest, sha256_of, write_whole
from utils.storage.state_dicts import load_strictly
from utils.storage.torch_files import to_bytes

REST = 30  # seconds from one epoch's checkpoint to the next: writing one takes a good part of a short epoch
CHOICE = "give this run its own run_name=..., or begin anew with --restart, which moves the old files aside"


class Run:
    """The folder `root_dir/<run_name>/<stage>` with model, checkpoints, config.yml and log.jsonl.

    Stopped anywhere and started again, a run ends with the same weights, to the last bit (on a CPU, with the same
    number of threads). Nothing is written before `resume`, or `save_model` after `take_over`: a mistake found until
    then leaves no trace.
    restart: move what the folder holds aside. Seeds PyTorch for the weights drawn next. Raises UserError if the folder
    holds a run of another config."""

    latest: EasyDict | None = None  # the config of the one that began last

    def __init__(self, cfg: EasyDict, restart: bool = False):
        Run.latest = self.cfg = cfg
        self.restart, self.device = restart, choose_device(cfg.device)
        self.folder = Path(cfg.root_dir) / cfg.run_name / STAGES[cfg.setup].folder
        self.checkpoint, self.ending = self.folder / "checkpoint.pth.tar", self.folder / "finished.json"
        self.is_pretext = STAGES[cfg.setup].folder == "pretext"
        self.of_own_pictures = "folder" in (cfg.train_db_name, cfg.val_db_name)
        self.handover, self.data, self.inputs, self.began_with = None, {}, {}, {}
        self.finished_epochs, self.begun_epoch, self.state, self.log = 0, None, {}, None
        self._refuse_other_config()
        torch.manual_seed(cfg.seed)

    def _refuse_other_config(self) -> None:
        path = self.folder / "config.yml"
        begun = has_checkpoint(self.checkpoint) or self.ending.is_file()
        if self.restart or not begun or not path.is_file():
            return
        try:
            saved = load_config(os.devnull, path)
        except UserError as error:
            raise UserError(f"{error}; put that right, or {CHOICE}") from error
        if differences := resume_differences(saved, self.cfg):
            more = f"; and {len(differences) - 8} more" if len(differences) > 8 else ""
            raise UserError(
                f"{self.folder} holds a run with other settings ({'; '.join(differences[:8])}{more}): go on with "
                f"those, or {CHOICE}"
            )

    # -- what the run starts from

    def starts_from(self, folder: str, *names: str) -> Path:
        """Check the files of the stage before, as far as that goes without images; returns their folder."""
        self.handover = Handover(self.cfg, Path(folder), names)
        self.began_with = self.handover.digests
        self.inputs |= self.began_with
        return Path(folder)

    def starts_from_file(self, path: Path) -> None:
        """Note the SHA-256 of the trained weights that take the place of a training."""
        self.began_with = {"weights": sha256_of(path)}
        self.inputs |= self.began_with

    def uses(self, train_set, val_set) -> None:
        """Note the images, and check that the files of the stage before were made from them."""
        splits = {"train": (self.cfg.train_db_name, train_set), "val": (self.cfg.val_db_name, val_set)}
        self.data = {split: split_metadata(name, split, dataset) for split, (name, dataset) in splits.items()}
        self.inputs |= {f"{split} images": facts["images_sha256"] for split, facts in self.data.items()}
        if self.handover:
            self.handover.check_data(self.data)

    def autocast(self) -> AbstractContextManager:
        """bfloat16 where `precision: bf16` asks for it; `auto` is fp32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.cfg.precision == "bf16")

    def resume(self, model: nn.Module, optimizer: Optimizer) -> dict:
        """Take up where the last checkpoint stands, if there is one; returns what `save` was given besides.

        From here on the run saves this model and optimizer."""
        self.lock, self.model, self.optimizer = claim(self.folder, self.restart), model, optimizer
        state, fault = load_checkpoint(self.checkpoint)
        if state is not None:
            self._take_up(state)
        elif self.ending.is_file() and not self.is_pretext:
            raise UserError(
                f"{self.folder} is finished and has no checkpoint to go on from: put it back, or {CHOICE}"
            )
        elif self.is_pretext and (self.folder / MODEL).exists():  # given with --model
            raise UserError(
                f"{self.folder} holds a model that was not trained there, or lacks its checkpoint, and training would "
                f"replace it: mine with it (--model {self.folder / MODEL}), or {CHOICE}"
            )
        self._open_log()
        if fault:
            self.log.warn(f"{fault}; going on from the checkpoint before")
        if state is not None:
            self.log.note(f"resumed {place_of(self.finished_epochs, self.begun_epoch)}")
        self.state = state or {}
        return self.state

    def _take_up(self, state: dict) -> None:
        if not {"model", "optimizer", "epoch"} <= state.keys() or type(state["epoch"]) is not int:
            hint = (
                f"; if it is a trained model, mine with it: --model {self.checkpoint}"
                if self.is_pretext
                else ""
            )
            raise UserError(
                f"{self.checkpoint} is no checkpoint to go on from, with model, optimizer and epoch: move it away to "
                f"start anew{hint}"
            )
        if not (self.folder / "config.yml").is_file():
            raise UserError(f"{self.folder} lacks config.yml, the settings of the checkpoint there: {CHOICE}")
        if changed := [
            name for name, digest in state.pop("inputs", {}).items() if self.inputs.get(name) != digest
        ]:
            raise UserError(
                f"{self.folder} began with other {', '.join(changed)} than there are now: {CHOICE}"
            )
        if state["epoch"] + ("begun_epoch" in state) > self.cfg.epochs:
            raise UserError(
                f"{self.checkpoint} is {place_of(state['epoch'], state.get('begun_epoch'))}, more than epochs: "
                f"{self.cfg.epochs}; give at least as many epochs, or {CHOICE}"
            )
        try:
            load_strictly(self.model, state.pop("model"), self.checkpoint)
            self.optimizer.load_state_dict(state.pop("optimizer"))
        except (UserError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.checkpoint} is no checkpoint of this run, by its model or optimizer ({error}): {CHOICE}"
            ) from error
        self.finished_epochs, self.begun_epoch = state.pop("epoch"), state.pop("begun_epoch", None)

    def take_over(self, path: Path, loaded: str) -> None:
        """Weights of `path` were loaded in place of training, as `loaded` says; the run begins when they are saved. Raises UserError
        where they would replace a model that was trained here."""
        own = [self.checkpoint.resolve(), (self.folder / MODEL).resolve()]
        if has_checkpoint(self.checkpoint) and path.resolve() not in own and not self.restart:
            raise UserError(
                f"{self.folder} holds a training run, and {path} would replace its model: {CHOICE}"
            )
        self.taken_over = f"{loaded}: nothing is trained"

    def _open_log(self) -> None:
        cfg = self.cfg
        self.ending.unlink(missing_ok=True)
        self.log = Logger(self.folder)
        self.log.heading(
            f"{cfg.setup} on {cfg.train_db_name}  ({self.device}, seed {cfg.seed})  ->  {self.folder}"
        )
        for name in self.handover.unrecorded if self.handover else []:
            self.log.note(
                f"{self.handover.folder / name} has no record of what it was made from: taken as it is"
            )

    # -- the epochs

    def epochs(self) -> Iterator[int]:
        """The epochs still to train, from 0. In them, SIGINT and SIGTERM end the run as soon as its state is saved."""
        save_config(self.cfg, self.folder / "config.yml")
        self.start = self.last_save = time.monotonic()
        self.first_epoch = self.finished_epochs
        with stopping.deferred():
            yield from range(self.finished_epochs, self.cfg.epochs)
        stopping.stop_if_requested()

    def steps(self, loader, epoch: int) -> Progress:
        """The steps of an epoch, those left of it if it was stopped in the middle; after each the run may be saved."""
        progress = Progress(loader, epoch, self.cfg.log_every, self.model.parameters(), self._after_step)
        if self.begun_epoch:
            progress.go_on(self.begun_epoch)
            self.begun_epoch = None
        loader.set_epoch(epoch, progress.step)
        return progress

    def _after_step(self, progress: Progress) -> None:
        minutes = (time.monotonic() - self.last_save) / 60
        if stopping.requested() or minutes >= self.cfg.get("save_minutes", math.inf):
            progress.averages()  # raises if they are not finite
            self.check_finite(progress.epoch)
            self._save(progress.epoch, progress.state())

    def save(self, epoch: int, **state) -> None:
        """Checkpoint after epoch `epoch`: weights, optimizer, number of finished epochs, and `state`, plain values. Not
        so soon after the last one, but for the first and the last epoch, or when the run is to stop."""
        self.finished_epochs, self.state = epoch + 1, state
        at_an_end = epoch == self.first_epoch or epoch + 1 == self.cfg.epochs or stopping.requested()
        if at_an_end or time.monotonic() - self.last_save >= REST:
            self._save(self.finished_epochs, None)

    def _save(self, finished: int, begun: dict | None) -> None:
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": finished,
        }
        content |= {"inputs": self.inputs, **self.state} | ({"begun_epoch": begun} if begun else {})
        facts = {
            "holds": f"checkpoint of {self.cfg.setup} {place_of(finished, begun)}",
            **self.data.get("train", {}),
        }
        save_checkpoint(self.checkpoint, content, facts)
        self.last_save = time.monotonic()
        stopping.stop_if_requested()

    def check_finite(self, epoch: int) -> None:
        """Raise RunError if the last step left weights that are not finite, before any of them is saved."""
        if not all(value.isfinite().all() for value in self.model.state_dict().values()):
            raise RunError(
                f"the weights were not finite in epoch {epoch + 1}; what was saved is whole: try a lower "
                "optimizer_kwargs.lr, or precision=fp32"
            )

    def log_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Log the epoch's metrics, with the time that the stage still needs."""
        spent = time.monotonic() - self.start
        left = spent / (epoch + 1 - self.first_epoch) * (self.cfg.epochs - epoch - 1)
        remark = f"[{epoch + 1}/{self.cfg.epochs}, {left / 60:.1f} min left]"
        self.log.epoch(epoch + 1, metrics, remark)

    def is_due(self, epoch: int, every: int) -> bool:
        """Every so many epochs, and at the last one."""
        return (epoch + 1) % every == 0 or epoch + 1 == self.cfg.epochs

    # -- results, and the end

    def save_model(self, content: dict) -> None:
        """Write model.pth.tar and its record: what the next stage starts from."""
        if not self.log:  # the model was given, and nothing written until now
            self.lock = claim(self.folder, self.restart)
            self._open_log()
            self.log.note(self.taken_over)
        facts = {
            "holds": f"model of {self.cfg.setup}",
            **self.data.get("train", {}),
            "made_from": self.inputs,
        }
        save_with_manifest(self.folder / MODEL, to_bytes(content), facts)

    def save_neighbors(self, split: str, neighbors: Tensor) -> None:
        """Write the neighbor file (N, T + 1) of a split and its record, which names the weights it was mined with."""
        facts = {"holds": "nearest neighbors", **self.data[split], "topk": neighbors.shape[1] - 1}
        facts["weights_sha256"] = sha256_of(self.folder / MODEL)
        save_with_manifest(self.folder / NEIGHBORS[split], neighbors_to_bytes(neighbors), facts)

    def finish(self, text: str) -> None:
        """The stage has come to its end: `text` tells what its folder holds."""
        save_config(self.cfg, self.folder / "config.yml")
        write_whole({self.ending: ending(self.cfg, self.folder, self.finished_epochs, self._made_from())})
        self.log.note(f"done: {self.folder} holds {text}")

    def _made_from(self) -> dict[str, str]:
        """What a finished stage stays finished for: the images too, unless their data set is always the same."""
        return self.inputs if self.of_own_pictures else self.began_with

    def is_finished(self, open_splits) -> bool:
        """Whether the stage has ended here with this config, and the pictures and files of now; says so if it has."""
        if self.restart or not self.ending.is_file():
            return False
        if self.of_own_pictures:  # which may have changed
            self.uses(*open_splits())
        epochs = 0 if self.cfg.setup == "moco" else self.cfg.epochs
        if self.ending.read_bytes() != ending(self.cfg, self.folder, epochs, self._made_from()):
            return False
        more = f" ({epochs} epochs): train more with epochs=..., or anew with --restart" if epochs else ""
        say(f"{self.folder} is finished{more or ': make it anew with --restart'}")
        return True
