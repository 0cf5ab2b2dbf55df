import math

import pytest
import torch

from losses import SCANLoss, cluster_entropy, scan_loss

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def loop_terms(anchor_logits, neighbor_logits, entropy_weight, prior=None):
    """The formulas, one image and one cluster at a time: (B, K) in float64."""
    p, q = anchor_logits.softmax(dim=1), neighbor_logits.softmax(dim=1)
    batch, clusters = p.shape
    consistency = sum(-torch.log((p[i] * q[i]).sum()).clamp(min=-100) for i in range(batch)) / batch
    entropy = 0.0  # ln K less the divergence from the prior, or from even shares
    for k in range(clusters):
        mean_p = (sum(p[i, k] for i in range(batch)) / batch).clamp(min=1e-8)
        share = prior[k] / sum(prior) if prior else 1 / clusters
        entropy = entropy - mean_p * (mean_p / share / clusters).log()
    return consistency - entropy_weight * entropy, consistency, entropy


def random_logits(batch=7, clusters=4):
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(2, batch, clusters, generator=generator)).unbind()


def hardly_agreeing():
    """<p, q> is between 1e-10 and 1e-8."""
    return 21 * torch.eye(4), 21 * torch.eye(4).roll(1, dims=0)


def surely_agreeing():
    """<p, q> rounds to 1: fp32 softmaxes may even have a larger sum."""
    anchors, neighbors = random_logits(batch=50)
    anchors[:, 0] = neighbors[:, 0] = torch.linspace(12, 40, 50)
    return anchors, neighbors


@pytest.mark.parametrize("logits", [random_logits, hardly_agreeing, surely_agreeing])
@pytest.mark.parametrize("prior", [None, [1, 1, 1, 1], [0.1, 0.2, 0.3, 0.4], [300, 1, 1, 200]], ids=str)
@pytest.mark.parametrize("entropy_weight", [0.0, 5.0])
@pytest.mark.parametrize("term", [0, 1, 2], ids=["total", "consistency", "entropy"])
def test_value_and_gradient_equal_a_float64_loop_of_the_formula(term, entropy_weight, prior, logits):
    inputs = [each.requires_grad_() for each in logits()]
    exact = [each.detach().double().requires_grad_() for each in inputs]
    found = SCANLoss(entropy_weight, prior)(*inputs)[term]
    expected = loop_terms(*exact, entropy_weight, prior)[term]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-7)
    grads = torch.autograd.grad(found, inputs, materialize_grads=True)
    exact_grads = torch.autograd.grad(expected, exact, materialize_grads=True)
    for grad, exact_grad in zip(grads, exact_grads, strict=True):
        torch.testing.assert_close(grad.double(), exact_grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("heads, batch, clusters", [(10, 128, 50), (3, 33, 7), (1, 8, 4)])
@pytest.mark.parametrize("is_skewed", [False, True], ids=["no prior", "prior"])
def test_heads_together_give_the_bits_of_a_loop_over_them(heads, batch, clusters, is_skewed):
    criterion = SCANLoss(5.0, range(1, clusters + 1) if is_skewed else None)
    together, apart = [
        [each.requires_grad_() for each in random_logits(batch, heads * clusters)] for _ in range(2)
    ]
    found = criterion(*[torch.stack(logits.chunk(heads, dim=1)) for logits in together])
    found.total.sum().backward()
    loop = [criterion(*pair) for pair in zip(*[logits.chunk(heads, dim=1) for logits in apart], strict=True)]
    torch.stack([terms.total for terms in loop]).sum().backward()
    for term, expected in zip(found, zip(*loop, strict=True), strict=True):
        assert torch.equal(term, torch.stack(expected))  # (H,)
    for logits, expected in zip(together, apart, strict=True):
        assert torch.equal(logits.grad, expected.grad)


def test_confident_balanced_clusters_reach_the_bound_minus_weight_ln_k():
    logits = 50 * torch.eye(4)  # 4 images, one in each of 4 clusters
    terms = scan_loss(logits, logits, entropy_weight=5.0)
    assert torch.stack(terms).tolist() == pytest.approx([-5 * math.log(4), 0, math.log(4)], abs=1e-6)


def test_entropy_is_of_the_anchors_alone():
    even, one_cluster = 50 * torch.eye(4), 50 * torch.eye(4)[[0, 0, 0, 0]]
    assert scan_loss(even, one_cluster, 1.0).entropy.item() == pytest.approx(math.log(4))
    assert scan_loss(one_cluster, even, 1.0).entropy.item() == pytest.approx(0, abs=1e-5)


@DTYPES
@pytest.mark.parametrize("scale", [0.0, 60.0, 60000.0])
@pytest.mark.parametrize("shift", [0, 1], ids=["agreement", "disagreement"])
def test_a_batch_collapsed_into_one_cluster_is_finite_in_value_and_gradient(shift, scale, dtype):
    anchors = (scale * torch.eye(5)[[2] * 6]).to(dtype).requires_grad_()
    neighbors = anchors.detach().roll(shift, dims=1).requires_grad_()
    terms = scan_loss(anchors, neighbors, 5.0)
    terms.total.backward()
    assert all(term.isfinite() and term.dtype == torch.float32 for term in terms)
    assert anchors.grad.isfinite().all() and neighbors.grad.isfinite().all()
    if shift and scale == 60000:
        assert terms.consistency.item() == 100  # where the log is clamped


def test_a_mean_under_1e_8_is_floored_there_not_shifted():
    anchors = torch.tensor([[0.0, -19.5, -19.5]])  # 3.4e-9 in each of the last two
    expected = -2 * 1e-8 * math.log(1e-8) + 2 * math.exp(-19.5)  # -p log p is 1 - p near p = 1
    assert scan_loss(anchors, anchors, 1.0).entropy.item() == pytest.approx(expected, abs=1e-8)  # not 4.9e-7


def test_under_the_floor_a_cluster_gives_no_entropy_gradient():
    anchors = torch.tensor([[0.0, 0.0, -19.5]]).requires_grad_()
    (grad,) = torch.autograd.grad(scan_loss(anchors, torch.zeros(1, 3), 1.0).entropy, anchors)
    # The other two lose it: p_3 * sum_k p_k (1 + log p_k). Its own term would be 17 times that.
    expected = math.exp(-19.5) / 2 * (1 - math.log(2))
    assert grad[0, 2].item() == pytest.approx(expected, rel=1e-3, abs=0)


def test_one_disagreeing_pair_does_not_disturb_the_gradient_of_the_others():
    anchors, neighbors = random_logits()
    anchors[0], neighbors[0] = torch.tensor([200.0, 0, 0, 0]), torch.tensor([0, 200.0, 0, 0])
    exact = anchors.double().requires_grad_()
    anchors.requires_grad_()
    scan_loss(anchors, neighbors, 0.0).consistency.backward()
    loop_terms(exact, neighbors.double(), 0.0)[1].backward()
    torch.testing.assert_close(anchors.grad[1:].double(), exact.grad[1:], rtol=1e-5, atol=1e-5)
    assert anchors.grad[0].abs().max() == 0


@DTYPES
def test_half_precision_logits_give_the_fp32_loss_of_the_same_numbers(dtype):
    halves = [logits.to(dtype) for logits in random_logits()]
    expected = loop_terms(*[half.double() for half in halves], 5.0)[0].item()
    assert scan_loss(*halves, 5.0).total.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shapes", [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4,), (4,)), ((1, 4, 3), (4, 3))])
def test_shapes_that_do_not_fit_are_an_error_that_names_both(shapes):
    with pytest.raises(ValueError) as error:
        scan_loss(torch.zeros(shapes[0]), torch.zeros(shapes[1]), 5.0)
    assert all(str(shape) in str(error.value) for shape in shapes)


@pytest.mark.parametrize("prior", [[3, 1], [0.75, 0.25], [300.0, 100.0]], ids=str)
def test_the_terms_of_even_clusters_under_a_3_to_1_prior_by_hand(prior):
    # ln 2 + 0.5 ln(2 * 3/4) + 0.5 ln(2 * 1/4) = ln 2 + 0.5 ln(3/4)
    entropy = math.log(2) + 0.5 * math.log(0.75)
    assert cluster_entropy(torch.tensor([0.5, 0.5]), prior).item() == pytest.approx(entropy)
    terms = scan_loss(torch.zeros(3, 2), torch.zeros(3, 2), 5.0, prior)
    assert torch.stack(terms).tolist() == pytest.approx([math.log(2) - 5 * entropy, math.log(2), entropy])


@pytest.mark.parametrize("prior", [[1, 1, 2], [1, 1e-9, 1e6], [1e-300, 1, 1]])
def test_an_empty_cluster_has_a_finite_entropy_and_gradient_under_any_prior(prior):
    anchors = torch.tensor([[0.0, 0.0, -1000.0], [1.0, 0.0, -1000.0]], requires_grad=True)
    terms = scan_loss(anchors, anchors.detach(), 5.0, prior)
    terms.total.backward()
    assert all(term.isfinite() for term in terms) and anchors.grad.isfinite().all()


def test_under_a_prior_too_an_empty_cluster_counts_as_1e_8():
    expected = -1e-8 * math.log(1e-8) + math.log(2 * 0.001) + 1e-8 * math.log(2 * 0.999)
    found = cluster_entropy(torch.tensor([1.0, 0.0], dtype=torch.float64), [0.001, 0.999])
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("prior", [[1.0], [1, 1, 1], []])
def test_a_prior_of_another_length_is_an_error_that_names_both(prior):
    with pytest.raises(ValueError, match=f"cluster_prior.*{len(prior)} .*4 "):
        scan_loss(*random_logits(), 5.0, prior)


def test_the_bounds_for_the_log_are_minus_weight_ln_k():
    sentence = SCANLoss(entropy_weight=5.0).bounds(10)
    assert "-11.513" in sentence and "-2.303" in sentence  # ln 10 = 2.302585
