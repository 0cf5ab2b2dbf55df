"""The published commands for CIFAR-10, CIFAR-100-20 and STL-10, as written, and those for Fashion-MNIST, on
small data sets in the official formats.

Batch, optimizer, augmentation and schedule are those of the config files. Only the epochs are cut to one, the
network is narrow and three of the recipes take no step, except in the slow runs. Self-labelling has a low
threshold, as so short a training leaves every image unsure.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch

import eval as evaluation
import simclr
from data.augment import train_transform, val_transform
from models import build_model
from tests.official_files import write_cifar10, write_cifar100, write_fashion_mnist, write_stl10
from tests.small_runs import SCRIPTS, config_of, replace_training, same_weights, untrained, weights
from utils.config import load_config
from utils.mypath import DATASET_FOLDERS

TRAIN, VAL, UNLABELED = 1000, 24, 30  # the largest published batch; what eval.py's 20 neighbors need; some
UNSURE = 0.06  # the confidence that even a hardly trained network has in one of 10 or 20 clusters
SGD, ADAM = (torch.optim.SGD, 0.4), (torch.optim.Adam, 0.0001)  # with the learning rate


class Step(NamedTuple):
    """What a stage trains with. steps: whole batches in an epoch. optimizer: class and learning rate."""

    images: int
    batch_size: int
    steps: int
    optimizer: tuple = ADAM


class Recipe(NamedTuple):
    """How the data set is written, and what each stage trains with."""

    write: Callable
    pretext: Step
    scan: Step = Step(TRAIN, 128, 7)
    selflabel: Step = Step(TRAIN, 1000, 1)
    temperature: float = 0.1


SIMCLR = Step(TRAIN, 512, 1, SGD)
CPU_SIMCLR, CPU_SCAN = (Step(TRAIN, 256, 3, (torch.optim.Adam, lr)) for lr in (0.002, 0.001))
RECIPES = {  # the name in the config files; STL-10's pretext task alone takes the unlabeled images too
    "cifar10": Recipe(write_cifar10, SIMCLR),
    "cifar20": Recipe(write_cifar100, SIMCLR, Step(TRAIN, 512, 1)),
    "stl10": Recipe(partial(write_stl10, unlabeled=UNLABELED), Step(TRAIN + UNLABELED, 512, 2, SGD)),
    "fashion_mnist": Recipe(write_fashion_mnist, SIMCLR),
    "fashion_mnist_small": Recipe(write_fashion_mnist, CPU_SIMCLR, CPU_SCAN, Step(TRAIN, 500, 2), 0.25),
}
TRAINED = ("cifar10", "fashion_mnist_small")  # those that train in the quick runs, too
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(params=RECIPES)
def name(request, tmp_path, monkeypatch):
    """A data set in its official format, in the folder that the environment names."""
    RECIPES[request.param].write(tmp_path / "data", monkeypatch, train=TRAIN, val=VAL)
    for _, variable in DATASET_FOLDERS.values():
        monkeypatch.setenv(variable, str(tmp_path / "data"))
    return request.param


def command(name, stage, root, width):
    small = [f"root_dir={root}", "device=cpu", f"model_kwargs.width={width}"]
    return ["--config_env", "configs/env.yml", "--config_exp", config_of(stage, name), *small]


@pytest.mark.parametrize("width", [1, pytest.param(64, marks=pytest.mark.slow)], ids=["narrow", "full-width"])
def test_every_stage_takes_the_steps_of_its_config_and_hands_over_to_the_next(
    width, name, tmp_path, monkeypatch, capsys
):
    recipe = RECIPES[name]
    losses = {
        "pretext": {"temperature": recipe.temperature},
        "scan": {"entropy_weight": 5.0, "cluster_prior": None},
        "selflabel": {"threshold": UNSURE, "apply_class_balancing": True},
    }

    def watch(training, stage, cfg):
        (group,) = training.optimizer.param_groups
        assert set(group["params"]) == set(training.model.parameters())
        random = train_transform(cfg)
        first = val_transform(cfg.transformation_kwargs) if stage == "selflabel" else random
        loader, criterion = training.loader, vars(training.criterion)
        assert loader.views == [first, random] and losses[stage].items() <= criterion.items()
        optimizer = (type(training.optimizer), group["lr"])
        assert getattr(recipe, stage) == (len(loader.dataset), loader.batch_size, len(loader), optimizer)
        return training.run_epoch() if width > 1 or name in TRAINED else untrained(training)

    for stage, script in SCRIPTS.items():
        cfg = load_config(None, config_of(stage, name))
        replace_training(monkeypatch, stage, partial(watch, stage=stage, cfg=cfg))
        unsure = [f"confidence_threshold={UNSURE}"] if stage == "selflabel" else []
        script.main([*command(name, stage, tmp_path, width), "epochs=1", *unsure])
        (model,) = tmp_path.glob(f"*/{stage}/model.pth.tar")
        capsys.readouterr()
        evaluation.main([*command(name, stage, tmp_path, width)[2:], "--model", str(model)])
        expected = "right among the top 20" if stage == "pretext" else "hungarian_match"
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cifar10", "stl10"], indirect=True)
def test_a_trained_simclr_model_is_a_way_in_without_training(name, tmp_path):
    arguments = command(name, "pretext", tmp_path, width=1)
    model = build_model(load_config(None, arguments[3], arguments[4:]))
    legacy = {"_use_new_zipfile_serialization": False}  # the form of most published files
    torch.save(model.state_dict(), tmp_path / "simclr.pth.tar", **legacy)
    simclr.main([*arguments, "--model", str(tmp_path / "simclr.pth.tar")])
    (folder,) = tmp_path.glob("*/pretext")
    assert same_weights(weights(folder), model.state_dict())
    train, val = (np.load(folder / f"topk-{split}-neighbors.npy") for split in ("train", "val"))
    assert train.shape == (TRAIN, 21) and val.shape == (VAL, 6)  # STL-10's unlabeled images are not mined
