"""A run of one stage: its arguments, folder, log, checkpoints, and how it ends."""

import argparse
import hashlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn

import torch
from easydict import EasyDict
from torch import nn
from torch.optim import Optimizer

from models.weights import load_strictly, read_file
from utils.config import check_stage, load_config, resume_differences, save_config
from utils.errors import RunError, UserError
from utils.files import replacing
from utils.logger import Logger

STAGE_FOLDERS = {"simclr": "pretext", "moco": "pretext", "scan": "scan", "selflabel": "selflabel"}


def stage_arguments(argv: list[str] | None, description: str, takes_model: bool = False) -> argparse.Namespace:
    """A stage script's command line: `--config_env`, `--config_exp`, overrides and, if asked for, `--model`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config_env", help="where results go (default: configs/env.yml, if present)")
    parser.add_argument("--config_exp", required=True, help="the YAML of this stage and data set, under configs/")
    if takes_model:
        parser.add_argument("--model", type=Path, help="a trained model to mine with: nothing is trained")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over both files")
    return parser.parse_intermixed_args(argv)


def stage_config(arguments: argparse.Namespace, stage: str) -> EasyDict:
    """The config of a stage script, checked for its stage."""
    cfg = load_config(arguments.config_env, arguments.config_exp, arguments.overrides)
    check_stage(cfg, stage)
    return cfg


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda was asked for, but PyTorch sees no CUDA device: use device=auto or device=cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


class Run:
    """The folder `root_dir/<run_name>/<stage>`, made on entry, with config.yml, log.jsonl and checkpoint.pth.tar.

    Seeds PyTorch for the weights drawn next. Raises UserError if a checkpoint of another config stands there."""

    def __init__(self, cfg):
        self.cfg, self.device = cfg, choose_device(cfg.device)
        self.folder = Path(cfg.root_dir) / cfg.run_name / STAGE_FOLDERS[cfg.setup]
        self.checkpoint = self.folder / "checkpoint.pth.tar"
        self.is_pretext = STAGE_FOLDERS[cfg.setup] == "pretext"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._refuse_other_config()
        self.log = Logger(self.folder)
        self.finished_epochs, self.start_digest = 0, None
        torch.manual_seed(cfg.seed)
        self.log.heading(f"{cfg.setup} on {cfg.train_db_name}  ({self.device}, seed {cfg.seed})  ->  {self.folder}")

    def _refuse_other_config(self) -> None:
        if not self.checkpoint.exists() or not (self.folder / "config.yml").exists():
            return
        if differences := resume_differences(load_config(None, self.folder / "config.yml"), self.cfg):
            raise UserError(
                f"{self.folder} holds a run with other settings ({'; '.join(differences[:4])}): "
                "give this one its own run_name=..., or remove that folder"
            )

    def autocast(self) -> AbstractContextManager:
        """bfloat16 where `precision: bf16` asks for it; `auto` is fp32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.cfg.precision == "bf16")

    def starts_from(self, path: Path) -> None:
        """Note the weights that the stage begins with: a restart that finds others there is refused."""
        self.start_digest = hashlib.sha256(path.read_bytes()).hexdigest()

    def resume(self, model: nn.Module, optimizer: Optimizer) -> dict:
        """Take up after the last whole epoch, if there is a checkpoint; returns what `save` was given besides."""
        if not self.checkpoint.exists():
            if self.is_pretext and (self.folder / "model.pth.tar").exists():  # given with --model
                raise UserError(
                    f"{self.folder} holds a model that was not trained there, and training would replace it: give this "
                    "run its own run_name=..., or remove that folder"
                )
            return {}
        try:
            state = read_file(self.checkpoint)
        except UserError as error:
            raise UserError(f"{error}; move it away to start anew") from error
        if not {"model", "optimizer", "epoch"} <= state.keys():
            hint = f"; if it is a trained model, mine with it: --model {self.checkpoint}" if self.is_pretext else ""
            raise UserError(f"{self.checkpoint} is no checkpoint to go on from: move it away to start anew{hint}")
        if state.pop("start_digest", None) != self.start_digest:
            raise UserError(
                f"{self.folder} began with other weights than now lie in the stage before: give this run its own "
                "run_name=..., or remove that folder"
            )
        if state["epoch"] > self.cfg.epochs:
            raise UserError(
                f"{self.checkpoint} has finished {state['epoch']} epochs, more than epochs: {self.cfg.epochs}; give "
                "this run its own run_name=..., or at least as many epochs"
            )
        load_strictly(model, state.pop("model"), self.checkpoint)
        optimizer.load_state_dict(state.pop("optimizer"))
        self.finished_epochs = state.pop("epoch")
        self.log.note(f"resumed after epoch {self.finished_epochs} of {self.cfg.epochs} from {self.checkpoint}")
        return state

    def take_over(self, model: nn.Module, state: dict, path: Path) -> None:
        """Load the weights `state`, read from `path`, in place of training. Raises UserError where they would replace
        a model that was trained here."""
        own = [self.checkpoint.resolve(), (self.folder / "model.pth.tar").resolve()]
        if self.checkpoint.exists() and path.resolve() not in own:
            raise UserError(
                f"{self.folder} holds a training run, and its model would be replaced by {path}: give this one its own "
                "run_name=..., or remove that folder"
            )
        load_strictly(model, state, path)
        save_config(self.cfg, self.folder / "config.yml")
        self.log.note(f"loaded {len(state)} of {len(state)} tensors from {path}: nothing is trained")

    def epochs(self) -> Iterator[int]:
        """The epochs still to train, from 0. Writes config.yml: whatever refuses this run has spoken by now."""
        save_config(self.cfg, self.folder / "config.yml")
        self.start, self.first_epoch = time.perf_counter(), self.finished_epochs
        yield from range(self.finished_epochs, self.cfg.epochs)

    def save(self, epoch: int, model: nn.Module, optimizer: Optimizer, **state) -> None:
        """Checkpoint after epoch `epoch`: weights, optimizer, number of finished epochs, and plain values."""
        self.finished_epochs = epoch + 1
        content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1, **state}
        if self.start_digest:
            content["start_digest"] = self.start_digest
        save_weights(content, self.checkpoint)

    def check_finite(self, epoch: int, model: nn.Module) -> None:
        """Raise RunError if the last step left weights that are not finite, before any of them is saved."""
        if not all(value.isfinite().all() for value in model.state_dict().values()):
            raise RunError(
                f"the weights were not finite after epoch {epoch + 1}: nothing of this epoch was saved; a lower "
                "optimizer_kwargs.lr or precision: fp32 usually helps"
            )

    def log_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Log the epoch's metrics, with the time that the stage still needs."""
        spent = time.perf_counter() - self.start
        left = spent / (epoch + 1 - self.first_epoch) * (self.cfg.epochs - epoch - 1)
        remark = f"[{epoch + 1}/{self.cfg.epochs}, {left / 60:.1f} min left]"
        self.log.epoch(epoch + 1, metrics, remark)

    def is_due(self, epoch: int, every: int) -> bool:
        """Every so many epochs, and at the last one."""
        return (epoch + 1) % every == 0 or epoch + 1 == self.cfg.epochs


def save_weights(content: dict, path: Path) -> None:
    """Write tensors and plain Python types, whole or not at all."""
    with replacing(path) as file:
        torch.save(content, file)


def command(main: Callable[[], None]) -> None:
    """Run a script's `main` and end the process as the shell expects.

    User's mistakes end in one line and exit code 2, failed storage or numbers in 3, SIGINT and SIGTERM in 130 and 143;
    anything else is a bug of ours, and shows its traceback."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except UserError as error:
        _end(f"error: {error}", 2)
    except (RunError, OSError) as error:
        _end(f"error: {error}", 3)
    except KeyboardInterrupt:
        _end("\nstopped; given again, the command of a stage goes on after its last whole epoch", 130)


def _end(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)
