"""The published method's rules, one by one, as the stage scripts keep them.

What a single function decides is tested beside that function: losses, class balancing and the strict
threshold (tests/losses), schedules and optimizers (tests/utils/test_optimizers.py), the draw of neighbors and
the dropped batch (tests/data/loader), the running average (tests/models/test_ema.py). The choice of epoch and
head and the skipped steps are in tests/test_stages.py.
"""

import copy
import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import scan
import selflabel
import simclr
from data.datasets.digits import read_digits
from data.loader.base import Batch
from losses import ConfidenceBasedCE, SCANLoss, ScanTerms, SimCLRLoss
from models import build_model, head_choice
from models.ema import InPlaceEMA
from tests import small_runs
from tests.small_runs import SCRIPTS, replace_training, run_stage, same_weights, untrained, weights
from utils import mining
from utils.config import load_config
from utils.report.log import read_epochs, read_results
from utils.run.meter import Meter

# -- what happens in a training step: a small network that keeps a record of how it is called

B, K = 6, 3


class Recorder(nn.Module):
    """Linear backbone with batch norm, and heads; `calls` holds each forward pass."""

    def __init__(self, num_heads=1):
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8))
        self.cluster_head = nn.ModuleList(nn.Linear(8, K) for _ in range(num_heads))
        self.calls = []

    def forward(self, images):
        modes = self.training, self.backbone[2].training
        self.calls.append(SimpleNamespace(images=images, modes=modes, gradient=torch.is_grad_enabled()))
        features = self.backbone(images)
        return [head(features) for head in self.cluster_head]


class Features(Recorder):
    def forward(self, images):
        return nn.functional.normalize(super().forward(images)[0], dim=1)


class TwoBatches(list):
    """A loader of two batches with two views each."""

    batch_size = B

    def set_epoch(self, epoch, first_step):
        pass


@pytest.fixture
def loader():
    views = torch.randn(2, 2, B, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return TwoBatches(Batch(torch.arange(B), list(pair), None) for pair in views)


def all_views(loader):
    """Of both batches, one after another."""
    return [view for batch in loader for view in batch.views]


def step(script, model, loader, criterion, **more):
    """One epoch of a stage's training, of the two batches; returns what it reports."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    if script is scan:
        trained = model if model.backbone[2].weight.requires_grad else model.cluster_head
        task = scan.Task(model, trained, loader, criterion, optimizer, model, None)
    else:
        task = script.Task(model, loader, criterion, optimizer, **more)
    return script.train_epoch(task, Meter(loader), nullcontext)


def copied(model):
    """Its state dict as it is now."""
    return copy.deepcopy(model.state_dict())


def batches_tracked(model):
    return model.backbone[2].num_batches_tracked.item()


def test_simclr_takes_both_views_through_the_network_in_one_pass_with_one_batch_norm(loader):
    model = Features()
    step(simclr, model, loader, SimCLRLoss(0.1))
    for call, batch in zip(model.calls, loader, strict=True):
        assert torch.equal(call.images, torch.cat(batch.views)) and call.modes == (True, True)
    assert batches_tracked(model) == 2


def test_scan_takes_anchors_and_neighbors_in_two_passes_each_with_its_own_batch_statistics(loader):
    model = Recorder()
    step(scan, model, loader, SCANLoss(5.0))
    for call, view in zip(model.calls, all_views(loader), strict=True):  # anchors, neighbors, and again
        assert torch.equal(call.images, view) and call.modes == (True, True) and call.gradient
    assert batches_tracked(model) == 4


def test_heads_only_scan_keeps_the_backbone_in_eval_mode_and_trains_the_heads(loader):
    model = Recorder()
    model.eval().backbone.requires_grad_(False)
    before = copied(model)
    step(scan, model, loader, SCANLoss(5.0))
    assert [backbone for _, backbone in (call.modes for call in model.calls)] == [False] * 4
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"cluster_head.0.weight", "cluster_head.0.bias"}


def test_scan_sums_the_losses_of_its_heads_and_logs_their_mean(loader):
    model = Recorder(num_heads=3)
    start = [head.bias.detach().clone() for head in model.cluster_head]

    def slope_one(anchors, _):  # a loss whose gradient at every bias is 1
        loss = anchors.sum(dim=-1).mean(dim=-1)  # (H,)
        return ScanTerms(loss, loss * 0 + 2, loss * 0 + 3)

    report = step(scan, model, loader, slope_one)
    for head, before in zip(model.cluster_head, start, strict=True):  # rate 0.1, two steps: a sum over heads
        assert torch.allclose(head.bias - before, torch.tensor(-0.2))
    assert (report["train/consistency"], report["train/entropy"]) == (2, 3)


def test_self_labelling_passes_weak_then_strong_both_in_train_mode_without_gradient_through_the_weak(loader):
    model = Recorder()
    step(selflabel, model, loader, ConfidenceBasedCE(0.01, True))
    for call, view in zip(model.calls, all_views(loader), strict=True):  # weak, strong, weak, strong
        assert torch.equal(call.images, view) and call.modes == (True, True)
    assert [call.gradient for call in model.calls] == [False, True, False, True]
    assert batches_tracked(model) == 4  # both passes move the running statistics


@pytest.mark.parametrize("alpha", [0.0, 0.9])
def test_under_ema_a_self_labelling_step_moves_the_weights_by_1_minus_alpha_of_the_optimizers_step(
    loader, alpha
):
    loader.pop()
    moves = []
    for average in (None, alpha):
        torch.manual_seed(1)
        model = Recorder()
        start, parameters = copied(model), dict(model.named_parameters())
        ema = None if average is None else InPlaceEMA(model, average)
        step(selflabel, model, loader, ConfidenceBasedCE(0.01, True), ema=ema)
        moves.append(torch.cat([(value - start[name]).flatten() for name, value in parameters.items()]))
    assert torch.allclose(moves[1], (1 - alpha) * moves[0], atol=1e-6) and moves[1].abs().max() > 1e-4
    buffers = dict(model.named_buffers())  # put back to where the stage started
    assert same_weights(buffers, {name: start[name] for name in buffers})


# -- what happens around the steps: the stages on 206 digits, their training replaced where it does not matter

pytestmark = pytest.mark.usefixtures("small_data")


@pytest.fixture(scope="module")
def three_heads(finished, tmp_path_factory):
    """SCAN with three heads, the last one said to be the best."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_runs.few_digits(monkeypatch)
        small_runs.without_pictures(monkeypatch)
        small_runs.validation_losses_are(monkeypatch, [3.0, 2.0, 1.0] * 2)
        root = tmp_path_factory.mktemp("three_heads")
        return run_stage("scan", root, f"pretext_dir={finished['pretext']}", "num_heads=3")


@pytest.fixture
def run(finished, three_heads, tmp_path, monkeypatch):
    """run(stage, train, overrides): the weights that a stage leaves with `train` in place of its training."""
    start = [f"pretext_dir={finished['pretext']}", f"scan_dir={three_heads}"]

    def run(stage, train, *overrides):
        replace_training(monkeypatch, stage, train)
        return weights(run_stage(stage, tmp_path, *start, *overrides))

    return run


@pytest.mark.parametrize("stage", SCRIPTS)
def test_every_stage_trains_on_whole_batches_drawn_by_the_seed_at_the_rate_set_before_each_epoch(stage, run):
    batches, rates = [], []

    def train(training):
        assert training.loader.seed == 3
        batches.append([len(batch.index) for batch in training.loader])
        rates.extend(group["lr"] for group in training.optimizer.param_groups)
        return untrained(training)

    cosine = ["optimizer_kwargs.lr=1.0", "scheduler=cosine", "scheduler_kwargs.lr_decay_rate=0.1"]
    run(stage, train, *cosine, "seed=3")
    assert batches == [[64, 64, 64]] * 2  # of 206 images, 14 are left out
    half = 0.001 + (1 - 0.001) * (1 + math.cos(math.pi / 2)) / 2  # epoch 1 of 2, eta_min = 0.1 ** 3
    assert rates == pytest.approx([1.0, half])


@pytest.mark.parametrize("stage", ["pretext", "selflabel"])
def test_simclr_and_self_labelling_keep_the_last_epoch_whatever_it_is_worth(stage, run):
    after = []

    def train(training):
        with torch.no_grad():
            for parameter in training.model.parameters():
                parameter.add_(0.01 * training.epoch)
        after.append(copied(training.model))
        return untrained(training)

    assert same_weights(run(stage, train), after[-1]) and len(after) == 2


def test_self_labelling_starts_from_the_best_head_of_scan_alone_renamed_the_first(three_heads, run):
    content = torch.load(three_heads / "model.pth.tar", weights_only=True)
    assert content["head"] == 2
    expected = {name: value for name, value in content["model"].items() if name.startswith("backbone.")}
    for part in ("weight", "bias"):
        expected[f"cluster_head.0.{part}"] = content["model"][f"cluster_head.2.{part}"]
    assert same_weights(run("selflabel", untrained), expected)


def test_scan_starts_from_the_pretext_backbone_without_its_head(finished, run):
    start, pretext = run("scan", untrained), weights(finished["pretext"])
    backbone = {name: value for name, value in start.items() if name.startswith("backbone.")}
    assert backbone.keys() == {name for name in pretext if not name.startswith("contrastive_head.")}
    assert all(torch.equal(pretext[name], value) for name, value in backbone.items())


@pytest.mark.parametrize(
    "heads_only, names", [(False, {"backbone", "cluster_head"}), (True, {"cluster_head"})]
)
def test_the_optimizer_holds_the_whole_network_or_for_heads_only_just_the_heads(heads_only, names, run):
    def train(training):
        groups = training.optimizer.param_groups
        parameters = training.model.named_parameters()
        expected = {value for name, value in parameters if name.split(".")[0] in names}
        assert {parameter for group in groups for parameter in group["params"]} == expected
        assert {group["weight_decay"] for group in groups} == {0.0001}  # biases, batch norms and all
        return untrained(training)

    run("scan", train, f"update_cluster_head_only={heads_only}")


def test_scan_draws_from_the_first_columns_of_its_file_itself_included_and_validates_on_all_six(
    run, monkeypatch
):
    trained_on, validated_on, validation = [], [], head_choice.scan_validation

    def validate(probabilities, neighbors, *rest):
        validated_on.append(neighbors)
        return validation(probabilities, neighbors, *rest)

    monkeypatch.setattr(head_choice, "scan_validation", validate)
    run("scan", lambda training: trained_on.append(training.loader.neighbors) or {}, "num_neighbors=2")
    assert [rows.shape for rows in trained_on] == [(206, 3)] * 2  # itself and two
    assert [rows.shape for rows in validated_on] == [(52, 6)] * 2  # itself and five, whatever num_neighbors
    for rows in (*trained_on, *validated_on):
        assert torch.equal(rows[:, 0], torch.arange(len(rows)))


def test_scan_judges_at_the_end_the_saved_model_not_the_last_one(run, tmp_path, monkeypatch):
    def train(training):  # every image surely in cluster 0, but only in the first epoch
        with torch.no_grad():
            training.model.cluster_head[0].bias[0] = 1000 * (training.epoch == 0)
        return {}

    small_runs.validation_losses_are(monkeypatch, [-2.0, -1.0])
    run("scan", train)
    log = tmp_path / "digits" / "scan" / "log.jsonl"
    first, second = (epoch["val/mean_confidence"] for epoch in read_epochs(log).values())
    assert first == read_results(log)["mean_confidence"] == 1 > second


def test_the_weak_view_is_the_plain_one_and_the_strong_view_the_same_images(run):
    images = read_digits("train").images[::7]

    def train(training):
        assert training.loader.neighbors is None
        weak, strong = training.loader.views
        assert sum(part.columns for part in weak) == 0 and sum(part.columns for part in strong) > 0
        for batch in training.loader:
            plain = batch.views[0] * 0.4 * 255  # mean 0, std 0.4
            assert torch.allclose(plain, images[batch.index].float(), atol=0.01)
        return untrained(training)

    run("selflabel", train)


def test_20_and_5_neighbors_are_mined_on_unit_features_after_the_mlp_in_fp32_whatever_the_training(
    run, monkeypatch
):
    mined, search = [], mining.mine_neighbors

    def watched(features, topk, *rest):
        mined.append((features, topk))
        return search(features, topk, *rest)

    monkeypatch.setattr(mining, "mine_neighbors", watched)
    model = build_model(load_config(None, small_runs.config_of("pretext"), small_runs.SMALL)).eval()
    model.load_state_dict(run("pretext", untrained, "precision=bf16"))
    assert [topk for _, topk in mined] == [20, 5]
    for split, (features, _) in zip(("train", "val"), mined, strict=True):
        assert torch.allclose(features.norm(dim=1), torch.ones(len(features)))
        with torch.no_grad():
            expected = model(read_digits(split).images[::7] / 255 / 0.4)  # mean 0, std 0.4
        assert torch.allclose(features, expected, atol=1e-5)
