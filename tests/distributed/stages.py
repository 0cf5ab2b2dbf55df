"""What the processes of a test run: whole stages on 206 digits, and single functions."""

from importlib import import_module

import pytest
import torch

import eval as evaluation
from data.loader.base import Loader
from tests.faults.kill_server import LATE
from tests.small_runs import few_digits, run_stage, weights, without_pictures
from utils.report.log import read_epochs

for name in LATE:
    import_module(name)

PLAIN_SGD = [
    "optimizer=sgd",
    "optimizer_kwargs={lr: 0.01, weight_decay: 0.0001, momentum: 0.9, nesterov: false}",
    "scheduler=constant",
]


def in_float64():
    """From here on, networks and losses compute in float64: what is left of a difference is no rounding."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    batch = Loader.batch
    Loader.batch = lambda self, step, views: batch(self, step, [view.double() for view in views])


def run(root, settings, epochs=1, exact=True):
    """Run each stage of `settings`, {stage: overrides}. Returns its weights and its log's figures by name."""
    if exact:
        in_float64()
    patch = pytest.MonkeyPatch()
    few_digits(patch)
    without_pictures(patch)
    found = {}
    for stage, overrides in settings.items():
        folder = run_stage(stage, root, "knn_backend=torch", *PLAIN_SGD, *overrides, epochs=epochs)
        state = {name: value.numpy() for name, value in weights(folder).items()}
        found[stage] = state, read_epochs(folder / "log.jsonl")[epochs]
    return found


def evaluate(root, stage, table):
    """The figures of eval.py on a stage's model; its table goes to a file."""
    patch, found = pytest.MonkeyPatch(), {}
    few_digits(patch)
    without_pictures(patch)
    patch.setattr(evaluation, "print_metrics", lambda _, metrics: found.update(metrics))
    model = root / "digits" / stage / "model.pth.tar"
    options = ["--out", str(table)] if table else []
    evaluation.main(["--config_exp", str(model.with_name("config.yml")), "--model", str(model), *options])
    return found
