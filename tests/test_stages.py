"""The three stages, run as a user runs them, on a small network and few epochs."""

import copy
import shutil

import numpy as np
import pytest
import torch

import data
import eval as evaluation
from losses import ConfidenceBasedCE
from tests import small_runs
from tests.small_runs import SCRIPTS, replace_training, run_stage, same_weights, untrained, weights
from utils.errors import UserError
from utils.evaluate import scan_validation
from utils.report.log import read_log
from utils.storage.files import read_manifest

pytestmark = pytest.mark.usefixtures("small_data")
NEIGHBORS = "topk-train-neighbors.npy topk-val-neighbors.npy"


def log_of(folder, kind=""):
    """The entries of the log, or those with this name: epoch, final, warning."""
    return [entry for entry in read_log(folder / "log.jsonl") if kind in (*entry, "")]


def content_of(folder, name="model"):
    return torch.load(folder / f"{name}.pth.tar", weights_only=True)


def assert_files(folder, with_manifest, others):
    """The folder holds these files, named in a line each, and a manifest beside each of the first."""
    expected = {*with_manifest.split(), *others.split(), *(f"{name}.json" for name in with_manifest.split())}
    assert {path.name for path in folder.iterdir() if path.suffix != ".lock"} == expected


@pytest.fixture
def run(finished, tmp_path):
    """run(stage, overrides, epochs=2): the stage, from the finished ones before it; returns its folder."""
    start = [f"pretext_dir={finished['pretext']}", f"scan_dir={finished['scan']}"]
    return lambda stage, *overrides, epochs=2: run_stage(stage, tmp_path, *start, *overrides, epochs=epochs)


@pytest.fixture
def judged():
    """Of each evaluation of a head: its logits, and if autocast is on."""
    calls = []

    def note(module, inputs, output):
        logits = inputs[0] if isinstance(module, torch.nn.Softmax) else output[0]
        if isinstance(module, torch.nn.Softmax) or (hasattr(module, "cluster_head") and not module.training):
            calls.append((logits, torch.is_autocast_enabled("cpu")))

    hook = torch.nn.modules.module.register_module_forward_hook(note)
    yield calls
    hook.remove()


def test_every_stage_leaves_the_files_the_next_one_and_the_user_need(finished):
    saved = "checkpoint.pth.tar previous_checkpoint.pth.tar model.pth.tar"
    others = "config.yml log.jsonl curves.png finished.json"
    features = " ".join(path.name for path in finished["pretext"].glob("features-*.npy"))
    assert features.count("train") == features.count("val") == 1
    assert_files(finished["pretext"], f"{saved} {NEIGHBORS} {features}", f"{others} neighbors.png")
    for stage in ("scan", "selflabel"):
        assert_files(
            finished[stage],
            f"{saved} kmeans.npy" if stage == "scan" else saved,
            f"{others} confusion_matrix.png",
        )


def test_the_files_have_the_published_formats(finished):
    train, val = (np.load(finished["pretext"] / name) for name in NEIGHBORS.split())
    assert train.dtype == val.dtype == np.int64
    assert train.shape == (206, 21) and val.shape == (52, 6)
    assert (train[:, 0] == np.arange(206)).all() and (val[:, 0] == np.arange(52)).all()

    pretext, scanned, labelled = map(content_of, finished.values())
    assert {name.split(".")[0] for name in pretext} == {"backbone", "contrastive_head"}
    assert scanned.keys() == {"model", "head"} and scanned["head"] == 0
    heads = {"cluster_head.0.weight", "cluster_head.0.bias"}
    assert {name for name in labelled if not name.startswith("backbone.")} == heads
    checkpoint = content_of(finished["scan"], "checkpoint")
    kinds = [type(checkpoint[name]) for name in ("epoch", "best_loss", "best_loss_head")]
    assert kinds == [int, float, int] and checkpoint["epoch"] == 2


def shuffled(targets):
    return targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(1))]


@pytest.mark.parametrize("change", [shuffled, lambda _: None, lambda targets: torch.full_like(targets, -1)])
def test_the_same_seed_gives_bit_identical_weights_whatever_the_labels_are(
    change, finished, tmp_path, monkeypatch
):
    small_runs.few_digits(monkeypatch, change)
    for stage in SCRIPTS:
        folder = run_stage(stage, tmp_path)
        assert same_weights(weights(folder), weights(finished[stage])), stage
        names = {name for line in log_of(folder) for name in line}
        of_labels = {name for name in names if any(word in name for word in ("ACC", "NMI", "right", "NN"))}
        assert bool(of_labels) == (change is shuffled)
        assert stage != "scan" or "val/used_clusters" in names


def test_another_seed_gives_other_weights(finished, tmp_path):
    other = run_stage("pretext", tmp_path, "seed=1")
    assert not same_weights(weights(other), weights(finished["pretext"]))


@pytest.mark.parametrize("stage", SCRIPTS)
def test_every_stage_trains_a_model_in_channels_last(stage, run, monkeypatch):
    def train(training):
        weight = dict(training.model.named_parameters())["backbone.layer1.0.conv1.weight"]
        assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        return untrained(training)

    replace_training(monkeypatch, stage, train)
    run(stage, epochs=1)


# -- a pretext model that was trained elsewhere


def take_over(model, root, *overrides):
    """simclr.py with a trained model, and the folder it writes."""
    return run_stage("pretext", root, "--model", str(model), *overrides)


def test_a_trained_model_given_to_simclr_is_mined_with_and_not_trained(finished, tmp_path, monkeypatch):
    replace_training(monkeypatch, "pretext", None)
    folder = take_over(finished["pretext"] / "model.pth.tar", tmp_path)
    assert same_weights(weights(folder), weights(finished["pretext"]))
    for name in NEIGHBORS.split():
        assert np.array_equal(np.load(folder / name), np.load(finished["pretext"] / name))
    assert_files(folder, f"model.pth.tar {NEIGHBORS}", "config.yml finished.json log.jsonl")
    scanned = weights(run_stage("scan", tmp_path))  # SCAN goes on from there
    assert same_weights(scanned, weights(finished["scan"]))


def test_bare_weights_in_the_checkpoints_place_as_once_published_are_taken_by_name(finished, tmp_path):
    place = tmp_path / "digits" / "pretext" / "checkpoint.pth.tar"
    place.parent.mkdir(parents=True)
    place.write_bytes((finished["pretext"] / "model.pth.tar").read_bytes())
    with pytest.raises(UserError, match=f"--model {place}"):
        run_stage("pretext", tmp_path)
    for options in ([], [], ["--restart"]):  # it may be repeated
        folder = take_over(place, tmp_path, *options)
        assert same_weights(weights(folder), weights(finished["pretext"]))
    assert not (folder / "checkpoint.pth.tar").exists()
    assert (tmp_path / "digits" / "pretext.old-1" / "checkpoint.pth.tar").exists()


def test_a_finished_run_can_mine_more_neighbors_with_its_own_model(finished, tmp_path):
    folder = run_stage("pretext", tmp_path)
    take_over(folder / "model.pth.tar", tmp_path, "num_neighbors=30")
    more = np.load(folder / "topk-train-neighbors.npy")
    assert more.shape == (206, 31) and same_weights(weights(folder), weights(finished["pretext"]))
    assert np.array_equal(more[:, :21], np.load(finished["pretext"] / "topk-train-neighbors.npy"))


def test_a_model_that_is_not_there_is_named_before_the_data_set_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(data.DATASETS, "digits", None)
    with pytest.raises(UserError, match=r"typo\.pth\.tar"):
        take_over(tmp_path / "typo.pth.tar", tmp_path)


# -- stopped and started again


class Stopped(Exception):
    pass


def stop_in_epoch(number, run, stage, *overrides, epochs):
    """Run a stage until this epoch, from 1, begins."""

    def train(training):
        if training.epoch == number - 1:
            raise Stopped
        return training.run_epoch()

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        replace_training(patch, stage, train)
        run(stage, *overrides, epochs=epochs)


@pytest.mark.parametrize("stage", SCRIPTS)
def test_a_restarted_run_goes_on_after_the_last_whole_epoch_and_ends_the_same(stage, run, finished):
    stop_in_epoch(2, run, stage, epochs=2)
    folder = run(stage)
    assert [line["epoch"] for line in log_of(folder, "epoch")] == [1, 2]
    assert same_weights(weights(folder), weights(finished[stage]))


def test_scan_keeps_the_best_epoch_before_it_was_stopped(run, tmp_path, monkeypatch):
    small_runs.validation_losses_are(monkeypatch, [-2.0, -1.0])
    stop_in_epoch(2, run, "scan", epochs=2)
    best = weights(tmp_path / "digits" / "scan")
    assert same_weights(weights(run("scan")), best)


def test_scan_makes_its_best_model_again_where_no_checkpoint_holds_that_epoch(run, tmp_path, monkeypatch):
    """Of short epochs the first is saved and the second is not."""
    small_runs.validation_losses_are(monkeypatch, [-1.0, -3.0, -3.0, -2.0])  # epochs 1 and 2, then 2 and 3
    stop_in_epoch(3, run, "scan", epochs=3)
    folder = tmp_path / "digits" / "scan"
    assert content_of(folder, "checkpoint")["epoch"] == 1
    best = weights(folder)
    (folder / "model.pth.tar").unlink()
    assert same_weights(weights(run("scan", epochs=3)), best)


@pytest.mark.parametrize("losses", [[-1.0, -3.0, -2.0, -2.5], [-1.0, -3.0, -2.0, -3.5]], ids=str)
def test_a_model_that_a_killed_scan_left_gives_way_to_a_better_one_only(losses, run, monkeypatch):
    """As on a GPU: after the kill the epochs come out otherwise. Of short ones the second is not saved."""
    small_runs.validation_losses_are(monkeypatch, losses)  # epochs 1 and 2, then 2 and 3
    stop_in_epoch(3, run, "scan", epochs=3)
    folder = run("scan", epochs=3)
    (final,) = log_of(folder, "final")
    assert f"{min(losses):.4f}" in final["final"]
    assert read_manifest(folder / "model.pth.tar")["loss"] == min(losses)
    assert content_of(folder, "checkpoint")["best_loss"] == min(losses[0], *losses[2:])


# -- what SCAN selects and reports


@pytest.mark.parametrize(
    "losses, heads, best",
    [
        ([-1.0, -2.0, -2.0], 1, (1, 0)),  # strictly lower: the second epoch, not the third
        ([-1.0, -1.0, -1.0, -1.0, -3.0, -3.0, -2.0, -2.0, -2.9], 3, (1, 1)),  # the first head of a tie
    ],
)
def test_scan_keeps_the_epoch_and_the_head_of_the_lowest_validation_loss(
    losses, heads, best, run, monkeypatch
):
    small_runs.validation_losses_are(monkeypatch, losses)
    after_epoch = []

    def train(training):
        metrics = training.run_epoch()
        after_epoch.append(copy.deepcopy(training.model.state_dict()))
        return metrics

    replace_training(monkeypatch, "scan", train)
    content = content_of(run("scan", f"num_heads={heads}", epochs=3))
    is_epoch = [same_weights(content["model"], state) for state in after_epoch]
    assert is_epoch == [number == best[0] for number in range(3)]
    assert content["head"] == best[1]


@pytest.mark.parametrize("batch_size", [39, 40])
def test_scan_warns_at_its_start_when_a_batch_has_fewer_than_4_images_a_cluster(batch_size, run, monkeypatch):
    replace_training(monkeypatch, "scan", untrained)
    lines = log_of(run("scan", f"batch_size={batch_size}", epochs=1))
    at_start = lines[: ["epoch" in line for line in lines].index(True)]
    warnings = [line["warning"] for line in at_start if "warning" in line]
    assert len(warnings) == (batch_size == 39)
    assert all(word in warning for warning in warnings for word in ("batch_size", "39", "num_classes", "40"))


def test_scan_logs_the_share_of_val_neighbors_in_one_cluster(run, finished, judged, monkeypatch):
    replace_training(monkeypatch, "scan", untrained)
    (epoch,) = log_of(run("scan", epochs=1), "epoch")
    clusters, neighbors = judged[0][0].argmax(dim=1), np.load(finished["pretext"] / "topk-val-neighbors.npy")
    same = [clusters[image] == clusters[other] for image, *others in neighbors for other in others]
    assert epoch["val/neighbor_agreement"] == pytest.approx(np.mean(same))


def test_scan_under_a_prior_trains_and_selects_by_it(run, finished, judged):
    prior = [55.0, *[5.0] * 9]
    folder = run("scan", f"criterion_kwargs.cluster_prior={prior}")
    neighbors = torch.from_numpy(np.load(finished["pretext"] / "topk-val-neighbors.npy"))
    for epoch, (logits, _) in zip(log_of(folder, "epoch"), judged[:-1], strict=True):  # the last: the result
        expected = scan_validation(logits.softmax(dim=1), neighbors, prior)["total_loss"]
        assert epoch["val/total_loss"] == pytest.approx(expected)
    assert not same_weights(weights(folder), weights(finished["scan"]))


@pytest.mark.parametrize("stage", ["scan", "selflabel"])
@pytest.mark.parametrize("is_other", [True, False])
def test_a_later_step_warns_of_another_plain_view_than_that_of_step_1(stage, is_other, run, monkeypatch):
    replace_training(monkeypatch, stage, untrained)
    other = ["transformation_kwargs.normalize.mean=[0.5, 0.5, 0.5]"] * is_other
    warnings = [line["warning"] for line in log_of(run(stage, *other, epochs=1), "warning")]
    assert any("transformation_kwargs.normalize.mean" in warning for warning in warnings) == is_other


# -- self-labelling


def nothing_confident_in(batches, monkeypatch):
    """The loss keeps nothing in the batches of these numbers, from 1, everything in the others."""
    calls = []

    def forward(self, weak, strong):
        calls.append(self)
        kept = 0 if len(calls) in batches else len(strong)
        return strong.logsumexp(dim=1).mean() * (kept > 0), torch.tensor(kept)

    monkeypatch.setattr(ConfidenceBasedCE, "forward", forward)


@pytest.mark.parametrize("ema", [[], ["use_ema=True", "ema_alpha=0.5"]], ids=["plain", "EMA"])
def test_selflabel_skips_and_counts_the_batches_without_a_confident_image(ema, run, monkeypatch):
    nothing_confident_in({2, 3}, monkeypatch)  # of 3: 206 images by 64
    folder = run("selflabel", *ema, epochs=1)
    (epoch,) = log_of(folder, "epoch")
    assert epoch["train/skipped_steps"] == 2
    assert epoch["train/confident_share"] == pytest.approx(1 / 3)
    optimizer = content_of(folder, "checkpoint")["optimizer"]
    assert {state["step"].item() for state in optimizer["state"].values()} == {1}  # Adam went one step


@pytest.mark.parametrize("follow", ["start", "running"])
def test_under_ema_the_batch_norm_buffers_stay_as_scan_left_them_or_follow_on_request(
    follow, run, finished, monkeypatch
):
    nothing_confident_in({3}, monkeypatch)  # the last step is a skipped one
    options = ["use_ema=True", "ema_alpha=0.5", f"ema_batch_norm={follow}"]
    trained, start = weights(run("selflabel", *options, epochs=1)), weights(finished["scan"])
    buffers = {name for name in start if "running" in name or "num_batches" in name}
    assert {torch.equal(trained[name], start[name]) for name in buffers} == {follow == "start"}
    assert not torch.equal(trained["backbone.conv1.weight"], start["backbone.conv1.weight"])


def test_selflabel_evaluates_in_fp32_whatever_the_precision_of_the_training(run, judged, monkeypatch):
    replace_training(monkeypatch, "selflabel", untrained)  # this stem cannot be trained on a CPU in bf16
    run("selflabel", "precision=bf16", epochs=1)
    assert [reduced for _, reduced in judged] == [
        False
    ] * 5  # clusters, confidence; clusters, after; the result


# -- all stages


def all_in_one_cluster(training):
    """After the first epoch every image is in cluster 0."""
    with torch.no_grad():
        training.model.cluster_head[0].bias[0] = 1000 * training.epoch
    return untrained(training)


@pytest.mark.parametrize("stage", ["scan", "selflabel"])
def test_a_clustering_stage_warns_of_dead_clusters_as_they_die_and_at_the_end(stage, run, monkeypatch):
    small_runs.validation_losses_are(monkeypatch, [-1.0, -2.0])
    replace_training(monkeypatch, stage, all_in_one_cluster)
    lines = log_of(run(stage))
    final = ["final" in line for line in lines].index(True)
    assert lines[final]["used_clusters"] == 1 and "warning" in lines[final + 1]
    before = [line["warning"] for line in lines[:final] if "warning" in line]
    assert len(before) == (stage == "selflabel") and all("epoch 2 uses 1 clusters" in line for line in before)


def test_in_bfloat16_every_parameter_is_trained(tmp_path, monkeypatch):
    """Not under the digits' stem: on a CPU, PyTorch 2.14 leaves gradients unset where a map is one pixel."""
    optimizers = []

    def train(training):
        optimizers.append(training.optimizer)
        return training.run_epoch()

    for stage in SCRIPTS:
        replace_training(monkeypatch, stage, train)
        run_stage(stage, tmp_path, "model_kwargs.stem=cifar", "precision=bf16", epochs=1)
        parameters = [parameter for group in optimizers[-1].param_groups for parameter in group["params"]]
        assert len(parameters) > 60
        assert {parameter.dtype for parameter in parameters} == {torch.float32}
        assert all(parameter.grad is not None for parameter in parameters)


@pytest.mark.parametrize("clusters", [3, 20])
def test_fewer_and_more_clusters_than_classes_go_through_every_stage_and_figure(
    clusters, run, tmp_path, capsys
):
    own = [f"num_classes={clusters}", f"confidence_threshold={1.1 / clusters}"]
    scanned = run("scan", own[0], epochs=1)
    folder = run("selflabel", *own, f"scan_dir={scanned}", epochs=1)
    (final,) = log_of(folder, "final")
    assert len(final["hungarian_match"]) == min(clusters, 10)  # one to one, as far as it goes
    assert 0 < final["ACC"] <= final["ACC many-to-one"] <= 1 and 0 <= final["NMI"] <= 1
    capsys.readouterr()
    model = shutil.copy(folder / "model.pth.tar", tmp_path)  # alone: curves are slow to draw
    written = tmp_path / "predictions.csv"
    options = ["--report", "--out", str(written), *small_runs.SMALL, own[0]]
    evaluation.main(["--config_exp", small_runs.config_of("selflabel"), "--model", str(model), *options])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line[:1] == " "]
    (sizes,) = (values for name, *values in lines if name == "sizes")
    assert len(sizes) == clusters and sum(map(int, sizes)) == 52
    assert len(written.read_text().splitlines()) == 53
    page = (tmp_path / "report.html").read_text()
    assert page.count('<article class="card"') == clusters and 'id="confusion"' in page


@pytest.mark.parametrize("stage", SCRIPTS)
def test_a_copied_tree_goes_on_by_itself_and_the_one_it_was_copied_from_stays_as_it_is(
    stage, finished, tmp_path
):
    for name, folder in finished.items():
        shutil.copytree(folder, tmp_path / "moved" / "copy" / name)
    before = {path: path.read_bytes() for path in finished[stage].parent.rglob("*") if path.is_file()}
    own = tmp_path / "moved" / "copy" / stage
    SCRIPTS[stage].main(["--config_exp", str(own / "config.yml"), "epochs=3"])
    assert [entry["epoch"] for entry in log_of(own, "epoch")] == [1, 2, 3]
    assert content_of(own, "checkpoint")["epoch"] == 3
    assert {path: path.read_bytes() for path in before} == before
    assert {path.name for path in (tmp_path / "moved").iterdir()} == {"copy"}
