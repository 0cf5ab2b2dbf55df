import math

import pytest
import torch
from torch import nn

from utils.config import load_config
from utils.optimizers import build_optimizer, learning_rate, set_learning_rate

SGD, ADAM = "configs/pretext/simclr_cifar10.yml", "configs/scan/scan_cifar10.yml"


def config(path, *overrides):
    return load_config(None, path, overrides)


# -- optimizers, against loops over single numbers


def built(cfg, parameters):
    return build_optimizer(cfg.optimizer, cfg.optimizer_kwargs, parameters)


def check(cfg, update):
    """Four steps are `update(weight, gradient, memory, step)` on every weight, biases and batch norms too."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3)
    parameters = list(nn.Sequential(*layers).double().parameters())
    expected = [parameter.detach().flatten().tolist() for parameter in parameters]
    memories = [[{} for _ in tensor] for tensor in expected]
    optimizer = built(cfg, parameters)
    for step in range(1, 5):
        for parameter, tensor, memory in zip(parameters, expected, memories, strict=True):
            parameter.grad = torch.randn_like(parameter)
            for place, gradient in enumerate(parameter.grad.flatten().tolist()):
                tensor[place] = update(tensor[place], gradient, memory[place], step)
        optimizer.step()
    for parameter, tensor in zip(parameters, expected, strict=True):
        assert parameter.detach().flatten().tolist() == pytest.approx(tensor, rel=1e-9)


@pytest.mark.parametrize("path", [ADAM, SGD])
def test_adam_is_plain_with_l2_in_the_gradient_of_every_parameter_also_in_a_file_for_sgd(path):
    lr, decay = 0.01, 0.3

    def update(weight, gradient, memory, step):
        gradient += decay * weight
        memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * gradient
        memory["v"] = 0.999 * memory.get("v", 0) + 0.001 * gradient**2
        m, v = memory["m"] / (1 - 0.9**step), memory["v"] / (1 - 0.999**step)
        return weight - lr * m / (math.sqrt(v) + 1e-8)

    values = [f"optimizer_kwargs.lr={lr}", f"optimizer_kwargs.weight_decay={decay}"]
    check(config(path, "optimizer=adam", *values), update)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_has_momentum_with_nesterov_if_asked_and_l2_in_the_gradient_of_every_parameter(nesterov):
    lr, decay, momentum = 0.1, 0.3, 0.8

    def update(weight, gradient, memory, step):
        gradient += decay * weight
        memory["v"] = momentum * memory.get("v", 0) + gradient
        return weight - lr * (gradient + momentum * memory["v"] if nesterov else memory["v"])

    values = {"lr": lr, "weight_decay": decay, "momentum": momentum, "nesterov": nesterov}
    check(config(SGD, *(f"optimizer_kwargs.{name}={value}" for name, value in values.items())), update)


def test_adams_guard_against_a_division_by_zero_is_1e_8():
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    weight.grad = torch.full_like(weight, 1e-8)  # m = v ** 0.5 = 1e-8 after the correction: half a step of lr
    built(config(ADAM), [weight]).step()
    assert weight.item() == pytest.approx(-0.0001 / 2)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_weights_in_channels_last_are_stepped_like_others(optimizer):
    stepped = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        convolution = nn.Conv2d(3, 4, 3).double().to(memory_format=layout)
        chosen = built(config(SGD, f"optimizer={optimizer}"), convolution.parameters())
        for _ in range(3):
            chosen.zero_grad()
            convolution(torch.randn(2, 3, 5, 5, dtype=torch.float64)).square().sum().backward()
            chosen.step()
        stepped.append(convolution.weight.detach().contiguous())
    torch.testing.assert_close(*stepped)


# -- learning rates

STEP = ("scheduler=step", "scheduler_kwargs.lr_decay_epochs=[1, 3]", "epochs=6")
MIDDLE, SWING = 0.2002, 0.1998  # between 0.4 and 0.4 * 0.1 ** 3 = 0.0004
HALF = math.sqrt(0.5)  # cosine of an eighth of a turn
SCHEDULES = {
    "cosine falls over half a period towards lr times the cube of the decay rate": (
        config(SGD, "epochs=4"),
        [0.4, MIDDLE + SWING * HALF, MIDDLE, MIDDLE - SWING * HALF],
    ),
    "step multiplies for each milestone strictly before the epoch": (
        config(SGD, *STEP),
        [0.4, 0.4, 0.04, 0.04, 0.004, 0.004],
    ),
    "constant is lr in every epoch": (config(ADAM, "epochs=3"), [0.0001] * 3),
}


@pytest.mark.parametrize("cfg, rates", SCHEDULES.values(), ids=SCHEDULES)
def test_schedule(cfg, rates):
    assert [learning_rate(cfg, epoch) for epoch in range(cfg.epochs)] == pytest.approx(rates, rel=1e-12)


def test_the_rate_of_the_epoch_is_given_to_every_parameter_group():
    groups = [
        {"params": [nn.Parameter(torch.zeros(1))]},
        {"params": [nn.Parameter(torch.ones(1))], "lr": 7.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=3.0)
    set_learning_rate(optimizer, config(SGD, "epochs=2"), 1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2002] * 2)
