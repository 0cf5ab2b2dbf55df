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


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3)).double()


def gradients_for(model, step):
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in model.parameters()]


def train(cfg, steps=4):
    model = network()
    optimizer = build_optimizer(cfg.optimizer, cfg.optimizer_kwargs, model.parameters())
    for step in range(steps):
        for parameter, gradient in zip(model.parameters(), gradients_for(model, step), strict=True):
            parameter.grad = gradient
        optimizer.step()
    return model


def by_hand(update, steps=4):
    """`update(weight, gradient, memory, step)` on every weight of the network, biases and batch norms too."""
    model = network()
    weights = [parameter.detach().flatten().tolist() for parameter in model.parameters()]
    memories = [[{} for _ in tensor] for tensor in weights]
    for step in range(steps):
        for tensor, memory, gradient in zip(weights, memories, gradients_for(model, step), strict=True):
            for place, g in enumerate(gradient.flatten().tolist()):
                tensor[place] = update(tensor[place], g, memory[place], step + 1)
    return weights


def check(model, weights):
    for (name, parameter), expected in zip(model.named_parameters(), weights, strict=True):
        assert parameter.detach().flatten().tolist() == pytest.approx(expected, rel=1e-9), name


def built(cfg, parameters):
    return build_optimizer(cfg.optimizer, cfg.optimizer_kwargs, parameters)


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
    check(train(config(path, "optimizer=adam", *values)), by_hand(update))


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_has_momentum_with_nesterov_if_asked_and_l2_in_the_gradient_of_every_parameter(nesterov):
    lr, decay, momentum = 0.1, 0.3, 0.8

    def update(weight, gradient, memory, step):
        gradient += decay * weight
        memory["v"] = momentum * memory.get("v", 0) + gradient
        return weight - lr * (gradient + momentum * memory["v"] if nesterov else memory["v"])

    values = {"lr": lr, "weight_decay": decay, "momentum": momentum, "nesterov": nesterov}
    cfg = config(SGD, *(f"optimizer_kwargs.{name}={value}" for name, value in values.items()))
    check(train(cfg), by_hand(update))


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


def rates(cfg):
    return [learning_rate(cfg, epoch) for epoch in range(cfg.epochs)]


def test_cosine_falls_over_half_a_period_from_lr_towards_lr_times_the_cube_of_the_decay_rate():
    half = math.sqrt(0.5)  # cosine of an eighth of a turn
    middle, swing = 0.2002, 0.1998  # between 0.4 and 0.4 * 0.1 ** 3 = 0.0004
    expected = [0.4, middle + swing * half, middle, middle - swing * half]
    assert rates(config(SGD, "epochs=4")) == pytest.approx(expected, rel=1e-12)


def test_step_multiplies_for_each_milestone_strictly_before_the_epoch():
    step = ["scheduler=step", "scheduler_kwargs.lr_decay_epochs=[1, 3]", "epochs=6"]
    assert rates(config(SGD, *step)) == pytest.approx([0.4, 0.4, 0.04, 0.04, 0.004, 0.004], rel=1e-12)


def test_constant_is_lr_in_every_epoch():
    assert rates(config(ADAM, "epochs=3")) == [0.0001] * 3


def test_the_rate_of_the_epoch_is_given_to_every_parameter_group_and_returned():
    cfg = config(SGD, "epochs=2")
    first, second = network().parameters(), network().parameters()
    optimizer = torch.optim.SGD([{"params": list(first)}, {"params": list(second), "lr": 7.0}], lr=3.0)
    assert set_learning_rate(optimizer, cfg, 1) == pytest.approx(0.2002)
    assert [group["lr"] for group in optimizer.param_groups] == [learning_rate(cfg, 1)] * 2
