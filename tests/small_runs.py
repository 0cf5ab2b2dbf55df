"""Runs of the stages on 206 digits with a narrow network: what the tests of whole stages share."""

import torch

import data
import scan
import selflabel
import simclr
from data.dataset import ResidentDataset
from data.datasets.digits import read_digits
from utils import mining
from utils.report import figures

SCRIPTS = {"pretext": simclr, "scan": scan, "selflabel": selflabel}
SMALL = ["device=cpu", "model_kwargs.width=4", "batch_size=64", "num_heads=1"]


def few_digits(monkeypatch, change_targets=lambda targets: targets):
    """Every seventh digit: 206 to train on, 52 held out."""

    def few(split):
        whole = read_digits(split)
        return ResidentDataset(whole.images[::7], change_targets(whole.targets[::7]), whole.classes)

    monkeypatch.setitem(data.DATASETS, "digits", few)


def without_pictures(monkeypatch):
    """Pictures take half the time of a short run."""
    monkeypatch.setattr(figures, "save_png", lambda *_, **options: None)
    monkeypatch.setattr(mining, "plot_neighbors", lambda *_: None)


def config_of(stage, recipe="digits"):
    return f"configs/{stage}/{SCRIPTS[stage].__name__}_{recipe}.yml"


def run_stage(stage, root, *overrides, epochs=2):
    """Run a stage of the digits' recipe; returns its folder."""
    SCRIPTS[stage].main(
        ["--config_exp", config_of(stage), f"root_dir={root}", f"epochs={epochs}", *SMALL, *overrides]
    )
    return root / "digits" / stage


def weights(folder):
    """The state dict in a stage's model.pth.tar."""
    content = torch.load(folder / "model.pth.tar", weights_only=True)
    return content.get("model", content)
