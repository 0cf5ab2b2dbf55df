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
    memories = [[{"ndim": parameter.ndim} for _ in parameter.flatten()] for parameter in parameters]
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


def test_adamw_shrinks_weights_apart_from_the_gradient_but_not_tensors_of_one_dimension():
    lr, decay = 0.01, 0.3

    def update(weight, gradient, memory, step):
        memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * gradient
        memory["v"] = 0.999 * memory.get("v", 0) + 0.001 * gradient**2
        m, v = memory["m"] / (1 - 0.9**step), memory["v"] / (1 - 0.999**step)
        shrunk = weight * (1 - lr * decay) if memory["ndim"] > 1 else weight
        return shrunk - lr * m / (math.sqrt(v) + 1e-8)

    values = [f"optimizer_kwargs.lr={lr}", f"optimizer_kwargs.weight_decay={decay}"]
    check(config(ADAM, "optimizer=adamw", *values), update)


def test_adamw_is_pytorchs_with_two_groups_also_as_the_rate_changes():
    cfg = config(ADAM, "optimizer=adamw", "optimizer_kwargs.weight_decay=0.3", f"{WARMUP}=4")
    torch.manual_seed(0)
    ours, theirs = (nn.Linear(3, 2).double() for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    chosen = built(cfg, ours.parameters())
    groups = [{"params": [theirs.weight], "weight_decay": 0.3}, {"params": [theirs.bias], "weight_decay": 0}]
    reference = torch.optim.AdamW(groups)
    for epoch in range(6):
        images = torch.randn(5, 3).double()
        set_learning_rate(chosen, cfg, epoch)
        for group in reference.param_groups:
            group["lr"] = min(0.0001, 0.0001 * (2 * epoch + 1) / 8)
        for layer, optimizer in ((ours, chosen), (theirs, reference)):
            optimizer.zero_grad()
            layer(images).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-9, atol=1e-12)


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


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
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
WARMUP = "scheduler_kwargs.warmup_epochs"
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
    "a warm-up is a line from 0 to lr, in each epoch its mean": (
        config(ADAM, "epochs=6", f"{WARMUP}=4"),
        [0.0001 / 8, 0.0003 / 8, 0.0005 / 8, 0.0007 / 8, 0.0001, 0.0001],
    ),
    "a warm-up takes the place of the first epochs of cosine": (
        config(SGD, "epochs=4", f"{WARMUP}=2"),
        [0.1, 0.3, MIDDLE, MIDDLE - SWING * HALF],
    ),
    "a warm-up takes the place of the first epochs of step": (
        config(SGD, *STEP, f"{WARMUP}=3"),
        [0.2 / 3, 0.2, 1 / 3, 0.04, 0.004, 0.004],
    ),
    "a warm-up of 0 epochs is none": (config(ADAM, "epochs=2", f"{WARMUP}=0"), [0.0001] * 2),
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
