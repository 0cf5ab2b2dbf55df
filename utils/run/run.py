"""A run of one stage: it joins the folder, the checkpoints, the meter and the log."""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import torch

from utils.device import autocast, choose_device, float32_precision, keep_freed_memory, lack_of_memory
from utils.errors import RunError, needed
from utils.evaluate.clustering import MODULES
from utils.report.canvas import import_matplotlib
from utils.run import signals
from utils.run.checkpoints import Checkpointer, place_of
from utils.run.folder import RunFolder
from utils.run.inputs import other_view_than_step_1
from utils.run.logger import Logger
from utils.run.meter import Meter, not_finite
from utils.stages import STAGES


class Run:
    """The context in which a stage runs. Stopped anywhere and started again, a run ends with the same
    weights, to the last bit (on a CPU, with the same number of threads).

    Nothing is written before `restore` or `begin`: a mistake found until then leaves no trace."""

    def __init__(self, cfg, restart: bool = False):
        self.cfg, self.device = cfg, choose_device(cfg.device)
        self.folder = RunFolder(cfg, restart)
        self.path = self.folder.path
        self.log = Logger(self.path)
        self.checkpoints = Checkpointer(self.folder, cfg.get("epochs", 0), cfg.get("save_minutes", math.inf))
        self.autocast = partial(autocast, self.device, cfg.precision)
        self.context = ExitStack()  # the lock, signals and process-wide settings, put back at the end
        self.start = time.monotonic()

    def __enter__(self) -> "Run":
        import_matplotlib()  # what is wrong with a library is found before training
        if STAGES[self.cfg.setup].folder != "pretext":  # which has no clusters
            needed(*MODULES)
        self.context.enter_context(signals.answered())
        self.context.enter_context(float32_precision(self.cfg.precision))
        if self.device.type == "cpu":
            keep_freed_memory()
        torch.manual_seed(self.cfg.seed)
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self.context.close()
        if error and (reason := lack_of_memory(error)):
            raise RunError(f"not enough memory ({reason}): {memory_advice(self.cfg)}") from error

    def is_finished(self) -> bool:
        """Whether the stage has ended here with this config and these inputs; says so if it has."""
        finished = self.folder.is_finished()
        if finished:
            more = "train more with epochs=..., or " if "epochs" in self.cfg else ""
            self.log.heading(f"{self.path} is finished: {more}begin anew with --restart")
        return finished

    def begin(self, remark: str) -> None:
        """Lock the folder and write the settings of a run without training."""
        self.context.enter_context(self.folder.claimed())
        self._open_log()
        self.log.note(remark)

    def restore(self, model, optimizer, **values) -> dict:
        """Lock the folder and load the last checkpoint, if any, into what the run saves from here on.

        values: what the stage saves besides, as it is at the beginning; returned as it was saved."""
        self.context.enter_context(self.folder.claimed())
        values, warnings = self.checkpoints.restore(model, optimizer, values)
        self._open_log()
        self.log.find_tensorboard()
        for warning in warnings:
            self.log.warn(warning)
        if self.checkpoints.finished or self.checkpoints.begun:
            place = place_of(self.checkpoints.finished, self.checkpoints.begun)
            self.log.note(f"resumed {place}", resumed_after=self.checkpoints.finished)
        return values

    def _open_log(self) -> None:
        self.folder.open()
        where = f"({self.device}, seed {self.cfg.seed})  ->  {self.path}"
        self.log.heading(f"{self.cfg.setup} on {self.cfg.train_db_name}  {where}")
        for path in [path for path, manifest in self.folder.manifests.items() if not manifest]:
            self.log.note(f"{path} has no manifest that says what it was made from: taken as it is")
        if STAGES[self.cfg.setup].starts_from and (difference := other_view_than_step_1(self.cfg)):
            self.log.warn(f"another view than in step 1 ({difference}): give all steps the same")

    def epochs(self) -> Iterator[int]:
        """The epochs still to train, from 0. In them a signal ends the run once its state is saved."""
        self.start = time.monotonic()
        with signals.waiting():
            yield from range(self.checkpoints.finished, self.cfg.epochs)
        signals.agreed(False)
        signals.stop_if_agreed()

    def meter(self, loader, epoch: int) -> Meter:
        """The remaining steps of an epoch; after each the run may be saved."""
        saver = self.checkpoints
        begun, saver.begun = saver.begun, {}
        return Meter(loader, epoch, self.cfg.log_every, saver.saved["model"], saver.after_step, **begun)

    def end_epoch(self, epoch: int, metrics: dict[str, float], **values) -> None:
        """Log the epoch's metrics and the time left, and save `values` with model and optimizer."""
        self.folder.check_claim()
        done = epoch + 1 - self.checkpoints.first_epoch
        if not math.isfinite(metrics.get("val/total_loss", 0)):
            raise not_finite(f"the validation loss after epoch {epoch + 1}")
        left = (time.monotonic() - self.start) / done * (self.cfg.epochs - epoch - 1)
        self.log.epoch(epoch + 1, metrics, f"[{epoch + 1}/{self.cfg.epochs}, {left / 60:.1f} min left]")
        self.checkpoints.end_epoch(epoch, values)

    def finish(self, text: str) -> None:
        """The stage has come to its end; `text` names what its folder holds."""
        self.folder.finish()
        self.log.note(f"done: {self.path} holds {text}")


def memory_advice(cfg) -> str:
    """Which keys to lower if memory runs out, with their values. Some stages lack some of them."""
    views, plain = cfg.get("augmentation_kwargs", {}), cfg.transformation_kwargs.crop_size
    size = views.get("crop_size") or views.get("random_resized_crop", {}).get("size", plain)
    return (
        f"lower batch_size (now {cfg.get('batch_size', 'none')}), the view size in augmentation_kwargs and "
        f"transformation_kwargs ({size} px), or model_kwargs.width ({cfg.model_kwargs.width}); mine "
        "with device=cpu; what was saved is whole"
    )
