import copy

import pytest
import torch
from torch import nn

from models.ema import InPlaceEMA

LR, MOMENTUM, ALPHA, STEPS = 0.1, 0.9, 0.75, 4
BATCHES = torch.randn(STEPS, 8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


def loss_of(model, images):
    return (model(images) ** 2).mean() + model(2 * images).exp().mean()


def train(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    ema = InPlaceEMA(model, ALPHA)
    for images in BATCHES:
        optimizer.zero_grad()
        loss_of(model, images).backward()
        optimizer.step()
        ema.step()
    return optimizer


def by_hand(model):
    """Weights that move by 1 - alpha of each SGD step; momentum as if there were no average."""
    model = copy.deepcopy(model)
    velocities = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for images in BATCHES:
        gradients = torch.autograd.grad(loss_of(model, images), list(model.parameters()))
        velocities = [MOMENTUM * velocity + g for velocity, g in zip(velocities, gradients, strict=True)]
        with torch.no_grad():
            for parameter, velocity in zip(model.parameters(), velocities, strict=True):
                parameter -= (1 - ALPHA) * LR * velocity
    return list(model.parameters()), velocities


def test_each_step_moves_the_weights_by_1_minus_alpha_of_the_optimizers_step_and_leaves_its_momentum(model):
    weights, velocities = by_hand(model)
    optimizer = train(model)
    for parameter, weight, velocity in zip(model.parameters(), weights, velocities, strict=True):
        torch.testing.assert_close(parameter, weight)
        torch.testing.assert_close(optimizer.state[parameter]["momentum_buffer"], velocity)


def test_all_tensors_at_once_give_the_bits_of_the_formula_applied_to_each(model):
    averages = [parameter.detach().clone() for parameter in model.float().parameters()]
    ema = InPlaceEMA(model, 0.999)
    for _ in range(STEPS):
        with torch.no_grad():
            for parameter, average in zip(model.parameters(), averages, strict=True):
                parameter.add_(torch.randn(parameter.shape))
                average.mul_(0.999).add_(parameter, alpha=1 - 0.999)
        ema.step()
        assert all(map(torch.equal, model.parameters(), averages))


def test_batch_norm_buffers_are_put_back_to_their_start_after_every_step(model):
    model(10 + BATCHES[0])  # start from buffers that are not 0 and 1
    start = copy.deepcopy(list(model.buffers()))
    train(model)
    assert model[1].num_batches_tracked == 1 and all(map(torch.equal, model.buffers(), start))


def test_on_request_the_batch_norm_buffers_follow_the_batches_as_without_an_average(model):
    plain = copy.deepcopy(model)
    ema = InPlaceEMA(model, ALPHA, batch_norm="running")
    for images in BATCHES:
        model(images)
        plain(images)
        ema.step()
        ema.restore_buffers()
    assert model[1].num_batches_tracked == STEPS
    for buffer, expected in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected)
