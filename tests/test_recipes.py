"""The published commands for CIFAR-10, CIFAR-100-20 and STL-10, as written, and those for Fashion-MNIST, on
small data sets in the official formats.

Batch, optimizer, augmentation and schedule are those of the config files. Only the epochs are cut to one, the
network is narrow and three of the recipes take no step, except in the slow runs. Self-labelling has a low
threshold, as so short a training leaves every image unsure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

import eval as evaluation
import simclr
from data.augment import train_transform, val_transform
from models import build_model
from tests.official_files import write_cifar10, write_cifar100, write_fashion_mnist, write_stl10
from tests.small_runs import SCRIPTS, config_of, replace_training, untrained
from utils.config import load_config
from utils.mypath import DATASET_FOLDERS

TRAIN, VAL, UNLABELED = 1000, 24, 30  # the largest published batch; what eval.py's 20 neighbors need; some
UNSURE = 0.06  # the confidence that even a hardly trained network has in one of 10 or 20 clusters
SGD, ADAM = (torch.optim.SGD, 0.4), (torch.optim.Adam, 0.0001)  # with the learning rate


@dataclass(frozen=True)
class Step:
    """What a stage trains with. steps: whole batches in an epoch. optimizer: class and learning rate."""

    images: int
    batch_size: int
    steps: int
    optimizer: tuple
    loss: dict


def simclr_step(images=TRAIN, batch_size=512, steps=1, optimizer=SGD, temperature=0.1):
    return Step(images, batch_size, steps, optimizer, {"temperature": temperature})


def scan_step(batch_size, steps, optimizer=ADAM):
    return Step(TRAIN, batch_size, steps, optimizer, {"entropy_weight": 5.0, "cluster_prior": None})


def selflabel_step(batch_size=1000, steps=1):
    return Step(TRAIN, batch_size, steps, ADAM, {"threshold": UNSURE, "apply_class_balancing": True})


@dataclass(frozen=True)
class Recipe:
    """Where results go, how the data set is written, and what each stage trains with."""

    run_name: str
    write: Callable
    pretext: Step
    scan: Step
    selflabel: Step


WITH_UNLABELED = partial(write_stl10, unlabeled=UNLABELED)
CPU_PRETEXT = simclr_step(batch_size=256, steps=3, optimizer=(torch.optim.Adam, 0.002), temperature=0.25)
CPU_SCAN = scan_step(256, 3, (torch.optim.Adam, 0.001))
RECIPES = {  # the name in the config files; STL-10's pretext task alone takes the unlabeled images too
    "cifar10": Recipe("cifar-10", write_cifar10, simclr_step(), scan_step(128, 7), selflabel_step()),
    "cifar20": Recipe("cifar-20", write_cifar100, simclr_step(), scan_step(512, 1), selflabel_step()),
    "stl10": Recipe(
        "stl-10", WITH_UNLABELED, simclr_step(1030, steps=2), scan_step(128, 7), selflabel_step()
    ),
    "fashion_mnist": Recipe(
        "fashion-mnist", write_fashion_mnist, simclr_step(), scan_step(128, 7), selflabel_step()
    ),
    "fashion_mnist_small": Recipe(
        "fashion-mnist-small", write_fashion_mnist, CPU_PRETEXT, CPU_SCAN, selflabel_step(500, 2)
    ),
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
    recipe, seen = RECIPES[name], {}

    def watch(training, stage, cfg):
        (group,) = training.optimizer.param_groups
        assert set(group["params"]) == set(training.model.parameters())
        random = train_transform(cfg.augmentation_strategy, cfg.augmentation_kwargs)
        first = val_transform(cfg.transformation_kwargs) if stage == "selflabel" else random
        loader, plain = training.loader, vars(torch.nn.Module())
        assert loader.views == [first, random]
        loss = {key: value for key, value in vars(training.criterion).items() if key not in plain}
        optimized = (type(training.optimizer), group["lr"])
        seen[stage] = Step(len(loader.dataset), loader.batch_size, len(loader), optimized, loss)
        return training.run_epoch() if width > 1 or name in TRAINED else untrained(training)

    for stage, script in SCRIPTS.items():
        cfg = load_config(None, config_of(stage, name))
        replace_training(monkeypatch, stage, partial(watch, stage=stage, cfg=cfg))
        unsure = [f"confidence_threshold={UNSURE}"] if stage == "selflabel" else []
        script.main([*command(name, stage, tmp_path, width), "epochs=1", *unsure])
        assert seen[stage] == getattr(recipe, stage)
        model = str(tmp_path / recipe.run_name / stage / "model.pth.tar")
        capsys.readouterr()
        evaluation.main([*command(name, stage, tmp_path, width)[2:], "--model", model])
        expected = "right among the top 20" if stage == "pretext" else "hungarian_match"
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cifar10", "stl10"], indirect=True)
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
