import math

import pytest
import torch
from torch.nn import functional as F

from losses import SimCLRLoss, simclr_loss


def loop_loss(features, temperature):
    """The formula, one first view at a time: (B, 2, D) in float64."""
    views = [(i, v) for v in range(2) for i in range(len(features))]
    losses = []
    for i in range(len(features)):
        others = [view for view in views if view != (i, 0)]
        scores = {view: torch.dot(features[i, 0], features[view]) / temperature for view in others}
        losses.append(torch.stack(list(scores.values())).exp().sum().log() - scores[i, 1])
    return torch.stack(losses).mean()


def unit_views():
    return F.normalize(torch.randn(6, 2, 8, generator=torch.Generator().manual_seed(0)), dim=2)


@pytest.mark.parametrize("length", [1.0, 1.5], ids=["unit length", "used as they come"])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_value_and_gradient_equal_a_float64_loop_of_the_formula(temperature, length):
    features = (length * unit_views()).requires_grad_()
    exact = features.detach().double().requires_grad_()
    loss, expected = SimCLRLoss(temperature)(features), loop_loss(exact, temperature)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(features.grad.double(), exact.grad, rtol=1e-5, atol=1e-5)


def test_a_hand_worked_batch_of_two():
    # First views e1 and e2; second views both e1. Products with the other three views, the positive first:
    # of anchor 0 they are 1, 0 and 1; of anchor 1 they are 0, 0 and 0.
    e1, e2 = torch.eye(2)
    features = torch.stack([torch.stack([e1, e1]), torch.stack([e2, e1])])
    expected = (math.log(2 * math.e + 1) - 1 + math.log(3)) / 2
    assert simclr_loss(features, 1.0).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_a_collapsed_batch_is_at_chance_ln_2b_minus_1_with_a_finite_gradient(batch):
    features = F.normalize(torch.ones(batch, 2, 4), dim=2).requires_grad_()
    loss = simclr_loss(features, 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2 * batch - 1))
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_neither_half_precision_features_nor_autocast_round_the_inner_products(dtype):
    features = unit_views().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = simclr_loss(features, 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(loop_loss(features.detach().double(), 0.1).item(), rel=1e-5)
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(4, 8), (4, 3, 8), (4, 2, 2, 8)])
def test_anything_but_two_views_an_image_is_an_error_that_names_the_shape(shape):
    with pytest.raises(ValueError, match=str(shape[-1])):
        simclr_loss(torch.zeros(shape), 0.1)
