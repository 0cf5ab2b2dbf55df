"""The published commands for CIFAR-10, CIFAR-100-20 and STL-10, as written, and those for Fashion-MNIST, on small data
sets in the official formats.

Batch, optimizer, augmentation and schedule are those of the config files. Only the epochs are cut to one and the
network is narrow, except in the slow runs; what so short a training leaves unsure, self-labelling takes at a low
threshold. No pictures are drawn: they have their own tests.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

import eval as evaluation
import scan
import selflabel
import simclr
from models import build_model
from tests.official_files import write_cifar10, write_cifar100, write_fashion_mnist, write_stl10
from utils.config import load_config
from utils.mypath import DATASET_FOLDERS

TRAIN, VAL, UNLABELED = 1000, 24, 30  # the largest published batch; what eval.py's 20 neighbors need; some
SGD, ADAM = (torch.optim.SGD, 0.4), (torch.optim.Adam, 0.0001)  # with the learning rate


@dataclass(frozen=True)
class Recipe:
    """Where results go, how the data set is written, and what a step of each stage is made of: batch size, whole
    batches in an epoch (the rest is dropped), optimizer."""

    run_name: str
    write: Callable
    steps: dict[str, tuple]


RECIPES = {  # the name in the config files
    "cifar10": Recipe(
        "cifar-10",
        write_cifar10,
        {"pretext": (512, 1, SGD), "scan": (128, 7, ADAM), "selflabel": (1000, 1, ADAM)},
    ),
    "cifar20": Recipe(
        "cifar-20",
        write_cifar100,
        {"pretext": (512, 1, SGD), "scan": (512, 1, ADAM), "selflabel": (1000, 1, ADAM)},
    ),
    "stl10": Recipe(  # the pretext task takes the unlabeled images too: 1,030
        "stl-10",
        partial(write_stl10, unlabeled=UNLABELED),
        {"pretext": (512, 2, SGD), "scan": (128, 7, ADAM), "selflabel": (1000, 1, ADAM)},
    ),
    "fashion_mnist": Recipe(
        "fashion-mnist",
        write_fashion_mnist,
        {"pretext": (512, 1, SGD), "scan": (128, 7, ADAM), "selflabel": (1000, 1, ADAM)},
    ),
    "fashion_mnist_small": Recipe(
        "fashion-mnist-small",
        write_fashion_mnist,
        {
            "pretext": (256, 3, (torch.optim.Adam, 0.002)),
            "scan": (256, 3, (torch.optim.Adam, 0.001)),
            "selflabel": (500, 2, ADAM),
        },
    ),
}
SCRIPTS = {"pretext": simclr, "scan": scan, "selflabel": selflabel}
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(params=RECIPES)
def name(request, tmp_path, monkeypatch):
    """A data set in its official format, in the folder that the environment names."""
    RECIPES[request.param].write(tmp_path / "data", monkeypatch, train=TRAIN, val=VAL)
    for _, variable in DATASET_FOLDERS.values():
        monkeypatch.setenv(variable, str(tmp_path / "data"))
    return request.param


def command(name, stage, root, width):
    config = f"configs/{stage}/{SCRIPTS[stage].__name__}_{name}.yml"
    small = [f"root_dir={root}", "device=cpu", f"model_kwargs.width={width}"]
    return ["--config_env", "configs/env.yml", "--config_exp", config, *small]


@pytest.mark.parametrize("width", [1, pytest.param(64, marks=pytest.mark.slow)], ids=["narrow", "published-width"])
def test_every_stage_takes_the_steps_of_its_config_and_hands_over_to_the_next(
    width, name, tmp_path, monkeypatch, capsys
):
    recipe = RECIPES[name]
    seen = {}

    def watch(stage, train_epoch):
        def watched(run, model, loader, criterion, optimizer, *rest):
            (group,) = optimizer.param_groups
            assert set(group["params"]) == set(model.parameters())
            seen[stage] = (loader.batch_size, len(loader), (type(optimizer), group["lr"]))
            return train_epoch(run, model, loader, criterion, optimizer, *rest)

        return watched

    for stage, script in SCRIPTS.items():
        monkeypatch.setattr(script, "train_epoch", watch(stage, script.train_epoch))
        unsure = ["confidence_threshold=0.06"] if stage == "selflabel" else []
        script.main([*command(name, stage, tmp_path, width), "epochs=1", *unsure])
        model = str(tmp_path / recipe.run_name / stage / "model.pth.tar")
        evaluation.main([*command(name, stage, tmp_path, width)[2:], "--model", model])
        expected = "right among the top 20" if stage == "pretext" else "hungarian_match"
        assert expected in capsys.readouterr().out
    assert seen == recipe.steps


def test_a_trained_simclr_model_is_a_way_in_without_training(name, tmp_path):
    arguments = command(name, "pretext", tmp_path, width=1)
    model = build_model(load_config(None, arguments[3], arguments[4:]))
    legacy = {"_use_new_zipfile_serialization": False}  # the form of most published files
    torch.save(model.state_dict(), tmp_path / "simclr.pth.tar", **legacy)
    simclr.main([*arguments, "--model", str(tmp_path / "simclr.pth.tar")])
    folder = tmp_path / RECIPES[name].run_name / "pretext"
    written = torch.load(folder / "model.pth.tar", weights_only=True)
    assert all(torch.equal(written[key], value) for key, value in model.state_dict().items())
    train, val = (np.load(folder / f"topk-{split}-neighbors.npy") for split in ("train", "val"))
    assert train.shape == (TRAIN, 21) and val.shape == (VAL, 6)  # STL-10's unlabeled images are not mined
