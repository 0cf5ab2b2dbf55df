"""Runs of the stages on 206 digits with a narrow network: what the tests of whole stages share."""

from functools import cache, partial
from types import SimpleNamespace

import torch

import data
import scan
import selflabel
import simclr
from data.dataset import ResidentDataset
from data.datasets.digits import read_digits
from models import head_choice
from utils import mining
from utils.report import figures

SCRIPTS = {"pretext": simclr, "scan": scan, "selflabel": selflabel}
digits = cache(read_digits)
SMALL = ["device=cpu", "model_kwargs.width=4", "batch_size=64", "num_heads=1"]


def few_digits(monkeypatch, change_targets=lambda targets: targets):
    """Every seventh digit: 206 to train on, 52 held out."""

    def few(split):
        whole = digits(split)
        return ResidentDataset(whole.images[::7], change_targets(whole.targets[::7]), whole.classes)

    monkeypatch.setitem(data.DATASETS, "digits", few)


def without_pictures(monkeypatch):
    """Pictures take half the time of a short run."""
    for module, name in (
        (figures, "curves_figure"),
        (figures, "matching_figure"),
        (mining, "plot_neighbors"),
    ):
        monkeypatch.setattr(module, name, lambda *_: None)


def replace_training(monkeypatch, stage, train):
    """`train(training)` takes the place of a stage's `train_epoch`.

    `training` has model, loader, criterion, optimizer, meter, the epoch from 0, and `run_epoch()`."""
    train_epoch = SCRIPTS[stage].train_epoch

    def replaced(task, meter, autocast):
        own = {"meter": meter, "epoch": meter.epoch, "run_epoch": partial(train_epoch, task, meter, autocast)}
        parts = task._asdict()
        return train(SimpleNamespace(**{"model": parts.get("network")} | parts | own))

    monkeypatch.setattr(SCRIPTS[stage], "train_epoch", replaced)


def untrained(_):
    """An epoch in which nothing is learnt."""
    return {"train/confident_share": 1.0}


def validation_losses_are(monkeypatch, losses):
    """SCAN takes these for the validation losses of its heads, epoch by epoch."""
    losses = iter(losses)
    monkeypatch.setattr(head_choice, "scan_validation", lambda *_: {"total_loss": next(losses)})


def config_of(stage, recipe="digits"):
    return f"configs/{stage}/{SCRIPTS[stage].__name__}_{recipe}.yml"


def run_stage(stage, root, *overrides, epochs=2):
    """Run a stage of the digits' recipe; returns its folder. The threshold is low, as the epochs are few."""
    low = ["confidence_threshold=0.15"] if stage == "selflabel" else []
    settings = [f"root_dir={root}", f"epochs={epochs}", *SMALL, *low, *overrides]
    SCRIPTS[stage].main(["--config_exp", config_of(stage), *settings])
    return root / "digits" / stage


def weights(folder):
    """The state dict in a stage's model.pth.tar."""
    content = torch.load(folder / "model.pth.tar", weights_only=True)
    return content.get("model", content)


def same_weights(first, second):
    """Whether two state dicts are equal to the last bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
