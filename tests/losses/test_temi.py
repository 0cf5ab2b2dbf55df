import math

import pytest
import torch

from losses import TEMILoss, pair_weights, temi_loss

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def loop_loss(students, teachers, marginal, beta):
    """The formulas, one image, cluster and head at a time: (H, B, K) in float64."""
    s, t = ([logits.softmax(dim=2) for logits in views] for views in (students, teachers))
    heads, batch, clusters = s[0].shape
    losses = []
    for h in range(heads):
        loss = 0.0
        for b in range(batch):
            pairs = [(g, k) for g in range(heads) for k in range(clusters)]
            weight = sum(t[0][g, b, k] * t[1][g, b, k] for g, k in pairs) / heads
            for one, other in ((0, 1), (1, 0)):
                terms = [
                    (s[one][h, b, k] * t[other][h, b, k]) ** beta / marginal[h, k] for k in range(clusters)
                ]
                loss = loss - weight * torch.log(sum(terms)) / 2 / batch
        losses.append(loss)
    return torch.stack(losses)


def random_logits(heads=2, batch=3, clusters=4):
    """Students and teachers, both views of each, and a marginal (H, K)."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4, heads, batch, clusters, generator=generator)
    marginal = torch.randn(heads, clusters, generator=generator).softmax(dim=1)
    return logits[:2].unbind(), logits[2:].unbind(), marginal


def hardly_agreeing():
    """Student and teacher, and the teacher's two views, have other clusters: inner products under 1e-8."""
    first = 21 * torch.eye(4).repeat(2, 1, 1)
    second, third, fourth = (first.roll(shift, dims=1) for shift in (1, 2, 3))
    return (first, second), (third, fourth), random_logits()[2]


def surely_agreeing():
    """All put each pair into one cluster with a probability that comes to round to 1."""
    students, teachers, marginal = random_logits(batch=8)
    for logits in (*students, *teachers):
        logits[:, :, 0] = torch.linspace(8, 40, 8)
    return students, teachers, marginal


def collapsed(scale=60.0):
    """All images of every head in cluster 2 of 5."""
    return [(scale * torch.eye(5)[[2] * 6]).repeat(3, 1, 1) for _ in range(4)]


def log(probs):
    """Logits of these probabilities, for one head."""
    return torch.tensor(probs).log()[None]


CASES = [random_logits, lambda: random_logits(1, 1, 2), lambda: random_logits(3, 5, 10)]
CASES += [hardly_agreeing, surely_agreeing]
NAMES = ["few", "one pair", "many", "hardly agreeing", "surely agreeing"]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
@pytest.mark.parametrize("beta", [0.5, 0.6, 1.0])
def test_value_and_gradient_equal_a_float64_loop_of_the_formula(beta, case):
    students, teachers, marginal = case()
    exact = [logits.double().requires_grad_() for logits in students]
    students = [logits.clone().requires_grad_() for logits in students]
    found = temi_loss(students, teachers, marginal, beta)
    expected = loop_loss(exact, [logits.double() for logits in teachers], marginal.double(), beta)
    heads, batch = teachers[0].shape[:2]
    scale = pair_weights(*teachers).max().item()  # of the values; of the gradients scale / batch
    torch.testing.assert_close(found.double() / scale, expected / scale, rtol=1e-5, atol=1e-6)
    weights = torch.arange(1, heads + 1)  # each head has a gradient of its own
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for logits, each in zip(students, exact, strict=True):
        found, expected = (batch / scale * grad for grad in (logits.grad.double(), each.grad))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("clusters", [2, 10])
@pytest.mark.parametrize("beta", [0.5, 0.6, 1.0])
def test_uniform_probabilities_give_the_value_worked_out_by_hand(beta, clusters):
    uniform = (torch.zeros(3, 4, clusters),) * 2
    by_hand = -math.log(clusters * (clusters**-2) ** beta / clusters**-1)  # 0 for beta = 1
    criterion = TEMILoss(3, clusters, beta)  # a uniform batch leaves its marginal at 1 / K
    assert criterion(uniform, uniform).tolist() == pytest.approx(
        [by_hand / clusters] * 3, abs=1e-6
    )  # w = 1 / K


def test_sure_and_balanced_pairs_reach_minus_ln_k_for_any_beta():
    sure = (50 * torch.eye(4)[None],) * 2  # 4 pairs, one in each of 4 clusters: w = 1, s t = 1, pi = 1 / 4
    for beta in (0.6, 1.0):
        assert TEMILoss(1, 4, beta)(sure, sure).item() == pytest.approx(-math.log(4), abs=1e-6)


def test_beta_is_0_6_unless_told():
    students, teachers, _ = random_logits()
    losses = [TEMILoss(2, 4, *beta)(students, teachers) for beta in ((), (0.6,), (1.0,))]
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])


def test_the_pair_weight_by_hand():
    first = torch.cat([log([[0.9, 0.1], [0.5, 0.5]]), log([[0.6, 0.4], [0.2, 0.8]])])  # 2 heads, 2 pairs
    second = torch.cat([log([[0.8, 0.2], [0.3, 0.7]]), log([[0.5, 0.5], [0.1, 0.9]])])
    # (0.72 + 0.02 + 0.30 + 0.20) / 2 and (0.15 + 0.35 + 0.02 + 0.72) / 2
    assert pair_weights(first, second).tolist() == pytest.approx([0.62, 0.62])
    assert pair_weights(first[:1], second[:1]).tolist() == pytest.approx([0.74, 0.5])


def test_heads_together_give_what_each_alone_would_but_for_the_shared_pair_weight():
    students, teachers, marginal = random_logits(heads=2, batch=3)
    shared = pair_weights(*teachers)  # (B,)
    together = temi_loss(students, teachers, marginal, 0.6)
    for h in (slice(0, 1), slice(1, 2)):
        parts = 0.0
        for b in range(3):
            own_s, own_t = ([logits[h, b : b + 1] for logits in views] for views in (students, teachers))
            parts += temi_loss(own_s, own_t, marginal[h], 0.6) / pair_weights(*own_t) * shared[b] / 3
        torch.testing.assert_close(together[h], parts)
        alone = temi_loss(
            *([logits[h] for logits in views] for views in (students, teachers)), marginal[h], 0.6
        )
        assert abs(together[h] - alone) > 1e-3


def test_equal_heads_give_each_the_loss_of_one_alone():
    students, teachers, marginal = random_logits(heads=1)
    stacked = [[logits.repeat(3, 1, 1) for logits in views] for views in (students, teachers)]
    alone = temi_loss(students, teachers, marginal, 0.6)
    torch.testing.assert_close(temi_loss(*stacked, marginal.repeat(3, 1), 0.6), alone.repeat(3))


def test_gradients_reach_the_students_alone():
    students, teachers, marginal = random_logits()
    inputs = [each.clone().requires_grad_() for each in (*students, *teachers, marginal)]
    loss = temi_loss(inputs[:2], inputs[2:4], inputs[4], 0.6).sum()
    grads = torch.autograd.grad(loss, inputs, allow_unused=True)
    assert all(grad is not None and grad.abs().max() > 0 for grad in grads[:2])
    assert grads[2:] == (None, None, None)
    assert not pair_weights(*inputs[2:4]).requires_grad


def test_the_marginal_has_no_gradient_and_moves_while_an_earlier_loss_waits_for_its_own():
    students, teachers, _ = random_logits()
    inputs = [each.clone().requires_grad_() for each in (*students, *teachers)]
    criterion = TEMILoss(2, 4)
    loss = criterion(inputs[:2], inputs[2:])
    criterion(inputs[:2], inputs[2:])
    loss.sum().backward()
    assert not criterion.marginal.requires_grad and not list(criterion.parameters())
    assert all(each.grad is None for each in inputs[2:])


def test_the_marginal_after_two_batches_by_hand():
    criterion = TEMILoss(1, 2)
    assert criterion.marginal.tolist() == [[0.5, 0.5]]
    students = (torch.zeros(1, 2, 2),) * 2
    criterion(students, (log([[0.9, 0.1], [0.7, 0.3]]), log([[0.8, 0.2], [0.4, 0.6]])))
    assert criterion.marginal.flatten().tolist() == pytest.approx([0.52, 0.48])  # 0.9 * 0.5 + 0.1 * 0.7
    criterion(students, (log([[0.1, 0.9], [0.1, 0.9]]), log([[0.2, 0.8], [0.4, 0.6]])))
    assert criterion.marginal.flatten().tolist() == pytest.approx([0.488, 0.512])  # 0.9 * 0.52 + 0.1 * 0.2


def test_each_head_has_a_marginal_of_its_own_moved_before_the_loss():
    students, teachers, _ = random_logits()
    criterion = TEMILoss(2, 4)
    found = criterion(students, teachers)
    mean = torch.stack(teachers).softmax(dim=3).mean(dim=(0, 2))  # (H, K)
    torch.testing.assert_close(criterion.marginal, 0.9 / 4 + 0.1 * mean)
    assert torch.equal(found, temi_loss(students, teachers, criterion.marginal, 0.6))
    assert not torch.allclose(found, temi_loss(students, teachers, torch.full((2, 4), 1 / 4), 0.6))
    criterion(students, teachers)
    torch.testing.assert_close(criterion.marginal, 0.81 / 4 + 0.19 * mean)


def test_the_state_dict_brings_the_marginal_back():
    students, teachers, _ = random_logits()
    trained, resumed = TEMILoss(2, 4), TEMILoss(2, 4)
    trained(students, teachers)
    state = {name: value.clone() for name, value in trained.state_dict().items()}
    assert list(state) == ["marginal"]
    resumed.load_state_dict(state)
    assert torch.equal(resumed(students, teachers), trained(students, teachers))
    assert torch.equal(resumed.marginal, trained.marginal)
    assert not torch.equal(resumed.marginal, state["marginal"])


@DTYPES
@pytest.mark.parametrize("scale", [0.0, 60.0, 60000.0])
@pytest.mark.parametrize("moved", [None, "students", "teachers"])
def test_a_collapsed_batch_is_finite_in_value_and_gradient(moved, scale, dtype):
    """All agree, or the first view of the students or of the teachers is in another cluster."""
    logits = [each.to(dtype) for each in collapsed(scale)]
    if moved:
        place = {"students": 0, "teachers": 2}[moved]
        logits[place] = logits[place].roll(1, dims=2)
    students = [each.requires_grad_() for each in logits[:2]]
    criterion = TEMILoss(3, 5)
    loss = criterion(students, logits[2:])
    loss.sum().backward()
    assert loss.isfinite().all() and (loss.dtype, loss.shape) == (torch.float32, (3,))
    assert all(each.grad.isfinite().all() for each in students)
    assert criterion.marginal.sum(dim=1).tolist() == pytest.approx([1] * 3)


@pytest.mark.parametrize("scale", [60.0, 60000.0])
def test_clusters_whose_marginal_has_shrunk_to_zero_stay_finite(scale):
    logits = [each.requires_grad_() for each in collapsed(scale)]
    criterion = TEMILoss(3, 5)
    criterion.marginal.copy_(torch.eye(5)[[2] * 3])  # as after 1,000 collapsed batches
    loss = criterion(logits[:2], logits[2:])
    loss.sum().backward()
    assert (criterion.marginal[:, 0] < 1e-20).all()
    assert loss.isfinite().all() and all(each.grad.isfinite().all() for each in logits[:2])
    unseen = temi_loss(*[(torch.zeros(1, 1, 2),) * 2] * 2, torch.tensor([[1.0, 0.0]]), 0.6)
    assert unseen.isfinite().all()


def test_a_small_marginal_counts_as_what_it_is():
    uniform = (torch.zeros(1, 1, 2),) * 2
    found = temi_loss(uniform, uniform, torch.tensor([[1.0, 1e-30]]), 0.6).item()
    assert found == pytest.approx((0.6 * math.log(4) - 30 * math.log(10)) / 2)  # w = 1 / 2


@DTYPES
def test_half_precision_logits_give_the_fp32_loss_of_the_same_numbers(dtype):
    students, teachers, marginal = random_logits()
    halves = [[logits.to(dtype) for logits in views] for views in (students, teachers)]
    expected = loop_loss(*([half.double() for half in views] for views in halves), marginal.double(), 0.6)
    found = temi_loss(*halves, marginal, 0.6)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    weights = pair_weights(*halves[1])
    assert weights.dtype == torch.float32
    assert torch.equal(weights, pair_weights(*[half.float() for half in halves[1]]))
    criterion, exact = TEMILoss(2, 4), TEMILoss(2, 4)
    criterion(*halves)
    exact(*([half.float() for half in views] for views in halves))
    assert torch.equal(criterion.marginal, exact.marginal)


@pytest.mark.parametrize("wrong", range(4))
@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 3, 1), (1, 3, 4), (2, 1, 4), (3, 4)], ids=str)
def test_logits_of_another_shape_are_an_error_that_names_it_and_leaves_the_marginal(wrong, shape):
    logits = [torch.ones(2, 3, 4) for _ in range(4)]
    logits[wrong] = torch.ones(shape)
    criterion = TEMILoss(2, 4)
    calls = [lambda: criterion(logits[:2], logits[2:])]
    calls += [lambda: temi_loss(logits[:2], logits[2:], criterion.marginal, 0.6)]
    calls += [lambda: pair_weights(*logits[2:])] if wrong > 1 else []
    for call in calls:
        with pytest.raises(ValueError) as error:
            call()
        assert all(str(each) in str(error.value) for each in (shape, (2, 3, 4)))
    assert torch.equal(criterion.marginal, torch.full((2, 4), 1 / 4))


def test_logits_without_heads_are_an_error():
    views = (torch.zeros(3, 4),) * 2
    for call in (lambda: temi_loss(views, views, torch.ones(3, 4), 0.6), lambda: pair_weights(*views)):
        with pytest.raises(ValueError, match=r"\(3, 4\), .* expected one shape \(H, B, K\)"):
            call()


@pytest.mark.parametrize("shape", [(1, 4), (2, 1), (3, 4), (4,)], ids=str)
def test_a_marginal_that_does_not_fit_the_logits_is_an_error_that_names_both(shape):
    views = (torch.zeros(2, 3, 4),) * 2
    calls = [lambda: temi_loss(views, views, torch.ones(shape), 0.6)]
    calls += [lambda: TEMILoss(*shape)(views, views)] if len(shape) == 2 else []
    for call in calls:
        with pytest.raises(ValueError, match="marginal") as error:
            call()
        assert all(str(each) in str(error.value) for each in (shape, (2, 4)))
