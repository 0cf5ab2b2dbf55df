import math
from types import SimpleNamespace
from unittest.mock import MagicMock, call

import pytest
import torch
from torch import nn

from tests.utils.run.toy_run import Loader
from utils.errors import RunError
from utils.run import meter as module
from utils.run.meter import Meter

NAN, INF = math.nan, math.inf


def run_epoch(loss, epoch=0, **others):
    """An epoch with this loss in each step, None for a step that is not measured, and other measurements."""
    meter = Meter(Loader(*[4] * len(loss)), epoch, log_every=10)
    for step, _ in enumerate(meter):
        if loss[step] is not None:
            values = {"loss": loss, **others}
            meter.update(**{name: torch.tensor(steps[step]) for name, steps in values.items()})
    return meter.averages()


@pytest.fixture
def tqdm(monkeypatch):
    monkeypatch.setattr(module, "progress", MagicMock())
    return module.progress


def test_averages_are_means_over_the_steps_named_as_training_metrics():
    averages = run_epoch([1.0, 2.0, 6.0], entropy=[0.5, 1.0, 0.0])
    averages.pop("train/images_per_second")
    assert averages == {"train/loss": 3.0, "train/entropy": 0.5}
    assert all(type(value) is float for value in averages.values())


def test_sums_are_kept_in_double_precision_whatever_the_loss_is_in():
    assert run_epoch([2.0**24, 1.0, 1.0])["train/loss"] == (2.0**24 + 2) / 3  # float32 would drop both ones


def test_the_mean_is_over_the_steps_that_were_measured():
    assert run_epoch([0.0, None, 2.0])["train/loss"] == 1.0
    assert run_epoch([None, None]).keys() == {"train/images_per_second"}


def test_batches_come_through_in_order_and_every_image_is_counted_once(monkeypatch):
    clock = iter([10.0, 12.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    meter = Meter(Loader(4, 4, 4))
    assert [len(batch.index) for batch in meter] == [4, 4, 4]
    assert meter.averages() == {"train/images_per_second": 12 / 2}


@pytest.mark.parametrize(
    "values, named",
    [
        ({"loss": [NAN, 1.0, 1.0]}, "loss 6 1"),
        ({"loss": [1.0, 1.0, -INF]}, "loss 6 3"),
        ({"loss": [1.0, INF, NAN]}, "loss 6 2"),
        ({"loss": [INF, -INF, 1.0]}, "loss 6 1"),
        ({"loss": [None, 1.0, NAN]}, "loss 6 3"),
        ({"loss": [1.0, 1.0, 1.0], "entropy": [1.0, NAN, 1.0], "last": [1.0, 1.0, 1.0]}, "entropy 6 2"),
        ({"loss": [1.0, 1.0, NAN], "entropy": [1.0, INF, 1.0], "last": [1.0, NAN, 1.0]}, "entropy, last 6 2"),
    ],
)
def test_the_first_step_that_is_not_finite_is_named_counted_from_1_with_what_was_not_and_nothing_else(
    values, named
):
    terms, epoch, step = named.rsplit(" ", 2)
    with pytest.raises(
        RunError, match=rf": {terms} in epoch {epoch}, step {step}\b.*optimizer_kwargs\.lr"
    ) as error:
        run_epoch(epoch=5, **values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_gradient_that_is_not_finite_is_named_though_the_loss_is(bad):
    weights = nn.ParameterList(torch.ones(2) for _ in range(3))  # the last one has no gradient
    meter = Meter(Loader(4, 4, 4), model=weights)
    with pytest.raises(RunError, match=r": gradient in epoch 1, step 2\b"):
        for step, _ in enumerate(meter):
            weights[0].grad = torch.ones(2)
            weights[1].grad = torch.tensor([1.0, bad if step == 1 else 1.0])
            meter.update(loss=torch.tensor(1.0))
        meter.averages()


def test_weights_that_are_not_finite_are_named_with_epoch_and_step():
    weights = nn.Linear(2, 2)
    meter = Meter(Loader(4), epoch=4, model=weights)
    assert list(meter)
    with torch.no_grad():
        weights.bias[0] = NAN
    with pytest.raises(RunError, match=r"weights.*epoch 5, step 1\b"):
        meter.averages()


@pytest.mark.parametrize("losses", [[0.1, 0.2, 0.4], [None, 0.2, None]], ids=["all measured", "one measured"])
def test_an_epoch_taken_up_again_ends_with_the_averages_and_counts_of_an_unbroken_one(tqdm, losses):
    class Stop(Exception):
        pass

    def stop_after_two(meter):
        if meter.step == 2:
            raise Stop

    def run(meter):
        for _ in meter:
            meter.count(steps=1, images=torch.tensor(4))
            if (loss := losses[meter.step]) is not None:
                meter.update(loss=torch.tensor(loss))
        return meter.averages()

    first = Meter(Loader(4, 4, 4), after_step=stop_after_two)
    with pytest.raises(Stop):
        run(first)
    second = Meter(Loader(4, 4, 4), **first.state())
    averages = run(second)
    assert tqdm.call_args.kwargs["initial"] == 8  # the bar goes on after two batches
    assert second.counts == {"steps": 3, "images": 12}
    assert averages["train/loss"] == run_epoch(losses)["train/loss"]


def test_nothing_is_kept_attached_to_the_graph():
    weight = torch.ones((), requires_grad=True)
    meter = Meter(Loader(4))
    for _ in meter:
        meter.update(loss=2 * weight)
    kept = [*meter.sums.values(), meter.first_bad]
    assert not any(tensor.requires_grad for tensor in kept)


def test_the_bar_counts_images_and_shows_the_running_loss_every_log_every_steps(tqdm):
    meter = Meter(Loader(4, 4, 4, 4, 4), epoch=2, log_every=2)
    for step, _ in enumerate(meter, start=1):
        meter.update(loss=torch.tensor(float(step)))
    bar = tqdm.return_value.__enter__.return_value
    assert (tqdm.call_args.kwargs["total"], tqdm.call_args.kwargs["desc"]) == (20, "epoch 3")
    assert bar.update.call_args_list == [call(4)] * 5
    means = [call(loss="1.5000"), call(loss="2.5000")]  # of 1, 2 and of 1, 2, 3, 4
    assert bar.set_postfix.call_args_list == means
    list(Meter(Loader(4, 4), log_every=1))
    assert bar.set_postfix.call_args_list == means  # nothing was measured
