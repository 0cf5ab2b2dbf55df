"""The published method's rules, one by one, as the stage scripts keep them.

What a single function decides has its test beside that function: losses, class balancing and the strict threshold
(tests/losses), schedules and optimizers (tests/utils/test_optimizers.py), the draw of neighbors and the dropped batch
(tests/data/test_loader.py), the running average (tests/models/test_ema.py), the choice of epoch and head and the
skipped steps (tests/test_stages.py).
"""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from easydict import EasyDict
from torch import nn

import scan
import selflabel
import simclr
from data.datasets.digits import read_digits
from data.loader.base import Batch
from losses import ConfidenceBasedCE, SCANLoss, ScanTerms, SimCLRLoss
from models.ema import InPlaceEMA
from tests.small_runs import SCRIPTS, few_digits, run_stage, weights
from utils import mining
from utils.run.meter import Progress

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


class TwoBatches:
    """A loader of two batches with two views each."""

    batch_size = B

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        views = torch.randn(2, 2, B, 3, 2, 2, generator=generator)
        self.batches = [Batch(torch.arange(B), list(pair), None) for pair in views]

    def __len__(self):
        return 2

    def __iter__(self):
        return iter(self.batches)

    def set_epoch(self, epoch):
        pass


@pytest.fixture
def loader():
    return TwoBatches()


def step(script, model, loader, criterion, *more, heads_only=False):
    """One epoch of a stage's training, of the two batches; returns what it reports."""
    torch.manual_seed(0)
    run = SimpleNamespace(
        cfg=EasyDict(update_cluster_head_only=heads_only, cached_views=0), autocast=nullcontext
    )
    run.steps = lambda loader, epoch: Progress(loader, epoch, log_every=1)
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    return script.train_epoch(run, model, loader, criterion, optimizer, *more, 0)


def batches_tracked(model):
    return model.backbone[2].num_batches_tracked.item()


def test_simclr_takes_both_views_through_the_network_in_one_pass_with_one_batch_norm(loader):
    model = Features()
    step(simclr, model, loader, SimCLRLoss(0.1))
    for call, batch in zip(model.calls, loader.batches, strict=True):
        assert torch.equal(call.images, torch.cat(batch.views)) and call.modes == (True, True)
    assert batches_tracked(model) == 2


def test_scan_takes_anchors_and_neighbors_in_two_passes_each_with_its_own_batch_statistics(loader):
    model = Recorder()
    step(scan, model, loader, SCANLoss(5.0))
    views = [
        view for batch in loader.batches for view in batch.views
    ]  # anchors, neighbors, anchors, neighbors
    for call, view in zip(model.calls, views, strict=True):
        assert torch.equal(call.images, view) and call.modes == (True, True) and call.gradient
    assert batches_tracked(model) == 4


def test_heads_only_scan_keeps_the_backbone_in_eval_mode_and_trains_the_heads(loader):
    model = Recorder()
    model.backbone.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step(scan, model, loader, SCANLoss(5.0), heads_only=True)
    assert [call.modes for call in model.calls] == [(True, False)] * 4
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"cluster_head.0.weight", "cluster_head.0.bias"}


def test_scan_sums_the_losses_of_its_heads_and_logs_their_mean(loader):
    model = Recorder(num_heads=3)
    start = [head.bias.detach().clone() for head in model.cluster_head]

    def slope_one(anchors, _):  # a loss whose gradient at every bias is 1
        loss = anchors.sum(dim=1).mean()
        return ScanTerms(loss, loss * 0 + 2, loss * 0 + 3)

    report = step(scan, model, loader, slope_one)
    for head, before in zip(model.cluster_head, start, strict=True):
        assert torch.allclose(
            head.bias - before, torch.tensor(-0.2)
        )  # rate 0.1, two steps: no division by the heads
    assert (report["train/consistency"], report["train/entropy"]) == (2, 3)


def test_self_labelling_passes_weak_then_strong_both_in_train_mode_without_gradient_through_the_weak(loader):
    model = Recorder()
    step(selflabel, model, loader, ConfidenceBasedCE(0.01, True), None)
    views = [view for batch in loader.batches for view in batch.views]  # weak, strong, weak, strong
    for call, view in zip(model.calls, views, strict=True):
        assert torch.equal(call.images, view) and call.modes == (True, True)
    assert [call.gradient for call in model.calls] == [False, True, False, True]
    assert batches_tracked(model) == 4  # both passes move the running statistics


@pytest.mark.parametrize("alpha", [0.0, 0.9])
def test_under_ema_a_self_labelling_step_moves_the_weights_by_1_minus_alpha_of_the_optimizers_step(
    loader, alpha
):
    loader.batches = loader.batches[:1]
    moves = []
    for average in (None, alpha):
        torch.manual_seed(1)
        model = Recorder()
        start = [parameter.detach().clone() for parameter in model.parameters()]
        buffers = [buffer.clone() for buffer in model.buffers()]
        ema = None if average is None else InPlaceEMA(model, average)
        step(selflabel, model, loader, ConfidenceBasedCE(0.01, True), ema)
        moves.append(
            [after.detach() - before for after, before in zip(model.parameters(), start, strict=True)]
        )
    for plain, averaged in zip(*moves, strict=True):
        assert torch.allclose(averaged, (1 - alpha) * plain, atol=1e-6)
    assert max(move.abs().max() for move in moves[1]) > 1e-4
    assert all(map(torch.equal, model.buffers(), buffers))  # put back to where the stage started


# -- what happens around the steps: the stages on 206 digits, their training replaced where it does not matter

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The three stages, one after the other: three heads in SCAN, the last one said to be the best."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as monkeypatch:
        few_digits(monkeypatch)
        run_stage("pretext", root)
        losses = iter([3.0, 2.0, 1.0] * 2)
        monkeypatch.setattr(scan, "scan_validation", lambda *_: {"total_loss": next(losses)})
        run_stage("scan", root, "num_heads=3")
    return root / "digits"


@pytest.fixture
def stage(request, finished, monkeypatch):
    few_digits(monkeypatch)
    return request.param


every_stage = pytest.mark.parametrize("stage", SCRIPTS, indirect=True)


def run_watched(stage, finished, root, monkeypatch, train_epoch, *overrides):
    """Run a stage from the finished ones before it, `train_epoch(run, model, loader, criterion, optimizer, ...)` in
    place of its training."""
    monkeypatch.setattr(SCRIPTS[stage], "train_epoch", train_epoch)
    start = [f"pretext_dir={finished / 'pretext'}", f"scan_dir={finished / 'scan'}"]
    low = ["confidence_threshold=0.11"] if stage == "selflabel" else []
    return run_stage(stage, root, *low, *start, *overrides)


@every_stage
def test_every_stage_trains_on_whole_batches_alone(stage, finished, tmp_path, monkeypatch):
    seen = []

    def train_epoch(run, model, loader, *_):
        seen.append([len(batch.index) for batch in loader])
        return {"train/confident_share": 1.0}

    run_watched(stage, finished, tmp_path, monkeypatch, train_epoch)
    assert seen == [[64, 64, 64]] * 2  # of 206 images, 14 are left out


@every_stage
def test_every_stage_sets_the_rate_of_an_epoch_before_it(stage, finished, tmp_path, monkeypatch):
    rates = []

    def train_epoch(run, model, loader, criterion, optimizer, *_):
        rates.extend(group["lr"] for group in optimizer.param_groups)
        return {"train/confident_share": 1.0}

    cosine = ["optimizer_kwargs.lr=1.0", "scheduler=cosine", "scheduler_kwargs.lr_decay_rate=0.1"]
    run_watched(stage, finished, tmp_path, monkeypatch, train_epoch, *cosine)
    half = 0.001 + (1 - 0.001) * (1 + math.cos(math.pi / 2)) / 2  # epoch 1 of 2, eta_min = 0.1 ** 3
    assert rates == pytest.approx([1.0, half])


@pytest.mark.parametrize("stage", ["pretext", "selflabel"], indirect=True)
def test_simclr_and_self_labelling_keep_the_last_epoch_whatever_it_is_worth(
    stage, finished, tmp_path, monkeypatch
):
    after = []

    def train_epoch(run, model, *_):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * len(after))
        after.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"train/confident_share": 1.0}

    kept = weights(run_watched(stage, finished, tmp_path, monkeypatch, train_epoch))
    assert len(after) == 2 and all(torch.equal(kept[name], value) for name, value in after[-1].items())


def untrained(*_):
    return {"train/confident_share": 1.0}


@pytest.mark.parametrize("stage", ["selflabel"], indirect=True)
def test_self_labelling_starts_from_the_best_head_of_scan_alone_renamed_the_first(
    stage, finished, tmp_path, monkeypatch
):
    content = torch.load(finished / "scan" / "model.pth.tar", weights_only=True)
    assert content["head"] == 2
    start = weights(run_watched(stage, finished, tmp_path, monkeypatch, untrained))
    for name, value in content["model"].items():
        if name.startswith("backbone."):
            assert torch.equal(start.pop(name), value)
    expected = {
        f"cluster_head.0.{part}": content["model"][f"cluster_head.2.{part}"] for part in ("weight", "bias")
    }
    assert start.keys() == expected.keys() and all(
        torch.equal(start[name], expected[name]) for name in expected
    )


@pytest.mark.parametrize("stage", ["scan"], indirect=True)
def test_scan_starts_from_the_pretext_backbone_without_its_head(stage, finished, tmp_path, monkeypatch):
    start = weights(run_watched(stage, finished, tmp_path, monkeypatch, untrained))
    pretext = weights(finished / "pretext")
    backbone = {name: value for name, value in start.items() if name.startswith("backbone.")}
    assert backbone.keys() == {name for name in pretext if not name.startswith("contrastive_head.")}
    assert all(torch.equal(pretext[name], value) for name, value in backbone.items())


@pytest.mark.parametrize("stage", ["scan"], indirect=True)
@pytest.mark.parametrize(
    "heads_only, names", [(False, {"backbone", "cluster_head"}), (True, {"cluster_head"})]
)
def test_the_optimizer_holds_the_whole_network_or_for_heads_only_just_the_heads(
    heads_only, names, stage, finished, tmp_path, monkeypatch
):
    def train_epoch(run, model, loader, criterion, optimizer, *_):
        held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        expected = {value for name, value in model.named_parameters() if name.split(".")[0] in names}
        assert held == expected
        assert {group["weight_decay"] for group in optimizer.param_groups} == {
            0.0001
        }  # biases, batch norms and all
        return {}

    run_watched(stage, finished, tmp_path, monkeypatch, train_epoch, f"update_cluster_head_only={heads_only}")


@pytest.mark.parametrize("stage", ["scan"], indirect=True)
def test_scan_draws_from_the_first_columns_of_its_file_itself_included_and_validates_on_all_six(
    stage, finished, tmp_path, monkeypatch
):
    trained_on, validated_on = [], []

    def train_epoch(run, model, loader, *_):
        trained_on.append(loader.neighbors)
        return {}

    validation = scan.scan_validation
    monkeypatch.setattr(
        scan, "scan_validation", lambda probs, rows, _: validated_on.append(rows) or validation(probs, rows)
    )
    run_watched(stage, finished, tmp_path, monkeypatch, train_epoch, "num_neighbors=2")
    assert [rows.shape for rows in trained_on] == [(206, 3)] * 2  # itself and two
    assert [rows.shape for rows in validated_on] == [(52, 6)] * 2  # itself and five, whatever num_neighbors
    for rows in (*trained_on, *validated_on):
        assert torch.equal(rows[:, 0], torch.arange(len(rows)))


@pytest.mark.parametrize("stage", ["scan"], indirect=True)
def test_scan_judges_at_the_end_the_saved_model_not_the_last_one(stage, finished, tmp_path, monkeypatch):
    judged = []

    def train_epoch(run, model, *_):
        with torch.no_grad():
            model.cluster_head[0].bias.zero_()[len(judged)] = (
                100  # everything in cluster 0, then in cluster 1
            )
        return {}

    losses = iter([-2.0, -1.0])
    monkeypatch.setattr(scan, "scan_validation", lambda *_: {"total_loss": next(losses)})
    evaluate = scan.evaluate_clusters
    monkeypatch.setattr(
        scan,
        "evaluate_clusters",
        lambda probs, _: judged.append(int(probs.argmax(dim=1)[0])) or evaluate(probs, None),
    )
    run_watched(stage, finished, tmp_path, monkeypatch, train_epoch)
    assert judged == [0, 1, 0]  # after each epoch, then the first one again


@pytest.mark.parametrize("stage", ["selflabel"], indirect=True)
def test_the_weak_view_is_the_plain_one_and_the_strong_view_the_same_images(
    stage, finished, tmp_path, monkeypatch
):
    def train_epoch(run, model, loader, *_):
        assert loader.neighbors is None
        weak, strong = loader.views
        assert sum(part.columns for part in weak) == 0 and sum(part.columns for part in strong) > 0
        images = read_digits("train").images[::7]
        for batch in loader:
            assert torch.allclose(
                batch.views[0] * 0.4 * 255, images[batch.index].float(), atol=0.01
            )  # mean 0, std 0.4
        return untrained()

    run_watched(stage, finished, tmp_path, monkeypatch, train_epoch)


@pytest.mark.parametrize("stage", ["pretext"], indirect=True)
def test_neighbors_are_mined_on_unit_features_after_the_mlp_20_in_train_and_5_in_val(
    stage, finished, tmp_path, monkeypatch
):
    mined, search = [], mining.mine_neighbors

    def watched(features, topk, *rest):
        mined.append((features, topk))
        return search(features, topk, *rest)

    monkeypatch.setattr(mining, "mine_neighbors", watched)
    run_watched(stage, finished, tmp_path, monkeypatch, untrained)
    assert [(tuple(features.shape), topk) for features, topk in mined] == [((206, 128), 20), ((52, 128), 5)]
    assert all(torch.allclose(features.norm(dim=1), torch.ones(len(features))) for features, _ in mined)
