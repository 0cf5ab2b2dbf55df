import math

import pytest
import torch

from losses import ConfidenceBasedCE, confidence_based_ce


def loop_loss(weak_logits, strong_logits, threshold, apply_class_balancing):
    """The formula, one image at a time, in float64: the weighted mean and the number of images kept."""
    probs = weak_logits.softmax(dim=1)
    kept = [(i, int(probs[i].argmax())) for i in range(len(probs)) if probs[i].max() > threshold]
    clusters = [target for _, target in kept]
    weights = [len(kept) / clusters.count(k) if apply_class_balancing else 1.0 for k in clusters]
    losses = [-strong_logits[i].log_softmax(dim=0)[target] for i, target in kept]
    return sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights), len(kept)


def random_logits():
    weak, strong = torch.randn(2, 40, 4, generator=torch.Generator().manual_seed(0))
    return 6 * weak, strong


def confident(clusters):
    """Weak logits that put each image in its one of 4 clusters with a probability above 0.99."""
    return 20 * torch.eye(4)[clusters]


@pytest.mark.parametrize("balancing", [True, False])
@pytest.mark.parametrize("threshold", [0.5, 0.99])
def test_value_and_gradient_equal_a_float64_loop_of_the_formula(threshold, balancing):
    weak, strong = (logits.requires_grad_() for logits in random_logits())
    exact = strong.detach().double().requires_grad_()
    loss, n_kept = ConfidenceBasedCE(threshold, balancing)(weak, strong)
    expected, expected_kept = loop_loss(weak.detach().double(), exact, threshold, balancing)
    assert 0 < n_kept.item() == expected_kept < len(weak)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(strong.grad.double(), exact.grad, rtol=1e-5, atol=1e-5)
    assert weak.grad is None


@pytest.mark.parametrize("unsure", [0, 5])
def test_balancing_counts_each_cluster_present_the_same_and_only_kept_images(unsure):
    # Three images in cluster 0, one in cluster 1. Cross-entropies: ln 4 for uniform logits, 0 for a sure hit.
    weak = torch.cat([confident([0, 0, 0, 1]), torch.tensor([[1.0, 0, 0, 0]] * unsure).view(-1, 4)])
    strong = torch.cat([torch.zeros(3, 4), confident([1]), torch.randn(unsure, 4)])
    for balancing, share in ((True, 1 / 2), (False, 3 / 4)):
        loss, n_kept = confidence_based_ce(weak, strong, 0.99, balancing)
        assert (loss.item(), n_kept.item()) == (pytest.approx(share * math.log(4), rel=1e-6), 4)


@pytest.mark.parametrize("balancing", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_with_nothing_kept_the_loss_and_its_gradient_are_zero_and_the_graph_stands(dtype, balancing):
    strong = random_logits()[1].to(dtype).requires_grad_()
    loss, n_kept = confidence_based_ce(torch.zeros(40, 4, dtype=dtype), strong, 0.99, balancing)
    assert (loss.item(), n_kept.item()) == (0.0, 0)
    loss.backward()
    assert torch.equal(strong.grad, torch.zeros_like(strong))


def test_the_threshold_itself_is_not_enough():
    weak = torch.tensor([[0.0, 0.0]])  # confidence exactly 0.5
    assert confidence_based_ce(weak, weak, 0.5, True).n_kept.item() == 0
    assert confidence_based_ce(weak, weak, 0.499, True).n_kept.item() == 1


def test_an_unsure_image_with_a_huge_loss_changes_nothing():
    weak = torch.cat([confident([0]), torch.zeros(1, 4)])
    strong = torch.tensor([[0.0, 0, 0, 0], [-torch.inf, 0, 0, 0]])
    assert confidence_based_ce(weak, strong, 0.99, False).loss.item() == pytest.approx(math.log(4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_half_precision_is_computed_in_fp32_and_stays_finite(scale, dtype):
    weak, strong = ((scale * logits).to(dtype) for logits in random_logits())
    strong.requires_grad_()
    loss, n_kept = confidence_based_ce(weak, strong, 0.9, True)
    expected, expected_kept = loop_loss(weak.double(), strong.detach().double(), 0.9, True)
    assert (n_kept.item(), n_kept.dtype, loss.dtype) == (expected_kept, torch.int64, torch.float32)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert strong.grad.isfinite().all()


def test_the_confidence_of_bf16_logits_is_not_rounded_to_bf16():
    weak = torch.tensor([[4.59375, -0.01373291015625]], dtype=torch.bfloat16)  # 0.9901, 0.988 if rounded
    assert 0.99 < weak.double().softmax(dim=1).max() < 0.9902
    assert confidence_based_ce(weak, weak, 0.99, True).n_kept.item() == 1


def test_no_shape_depends_on_the_data_and_nothing_is_read_back():
    # Meta tensors have no values: .item(), boolean indexing or nonzero would fail on them.
    weak, strong = torch.empty(8, 4, device="meta"), torch.empty(8, 4, device="meta")
    loss, n_kept = confidence_based_ce(weak, strong, 0.99, True)
    assert loss.shape == n_kept.shape == () and n_kept.device.type == "meta"


@pytest.mark.parametrize("shapes", [((4, 3), (5, 3)), ((4,), (4,))])
def test_shapes_that_do_not_fit_are_an_error_that_names_both(shapes):
    with pytest.raises(ValueError) as error:
        confidence_based_ce(torch.zeros(shapes[0]), torch.zeros(shapes[1]), 0.99, True)
    assert all(str(shape) in str(error.value) for shape in shapes)
