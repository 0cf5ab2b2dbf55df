import copy

import pytest
import torch
from torch import nn

from models.ema import InPlaceEMA

BATCHES = torch.randn(4, 8, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_all_tensors_at_once_give_the_bits_of_the_formula_applied_to_each(model):
    averages = [parameter.detach().clone() for parameter in model.parameters()]
    ema = InPlaceEMA(model, 0.999)
    for _ in range(4):
        with torch.no_grad():
            for parameter, average in zip(model.parameters(), averages, strict=True):
                parameter.add_(torch.randn(parameter.shape))
                average.mul_(0.999).add_(parameter, alpha=1 - 0.999)
        ema.step()
        assert all(map(torch.equal, model.parameters(), averages))


@pytest.mark.parametrize("batch_norm", ["start", "running"])
def test_batch_norm_buffers_are_put_back_to_their_start_or_follow_the_batches(model, batch_norm):
    model(10 + BATCHES[0])  # start from buffers that are not 0 and 1
    expected = copy.deepcopy(model)
    ema = InPlaceEMA(model, 0.5, batch_norm)
    for images in BATCHES:
        model(images)
        ema.step()
        model(images)
        ema.restore_buffers()  # after a skipped step
        if batch_norm == "running":
            expected(images)
            expected(images)
    assert all(map(torch.equal, model.buffers(), expected.buffers()))
