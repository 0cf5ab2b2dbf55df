"""The three stages and the evaluation, run as a user runs them, on a small network and few epochs."""

import json
import shutil

import numpy as np
import pytest
import torch

import eval as evaluation
import scan
import selflabel
import simclr
from tests.small_runs import SCRIPTS, SMALL, config_of, few_digits, run_stage, weights
from utils.errors import UserError
from utils.optimizers import build_optimizer


@pytest.fixture(autouse=True)
def small_data(monkeypatch):
    few_digits(monkeypatch)


def run_recipe(root):
    return {
        "pretext": run_stage("pretext", root),
        "scan": run_stage("scan", root),
        "selflabel": run_stage("selflabel", root, "confidence_threshold=0.15"),
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One whole run: folder of each stage."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        few_digits(monkeypatch)
        return run_recipe(tmp_path_factory.mktemp("finished"))


def same_weights(first, second):
    first, second = weights(first), weights(second)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def epochs_of(folder):
    return [line for line in log_of(folder) if "epoch" in line]


def test_every_stage_leaves_the_files_the_next_one_and_the_user_need(finished):
    recorded = {"checkpoint.pth.tar", "previous_checkpoint.pth.tar", "model.pth.tar"}
    bare = {"config.yml", "log.jsonl", "curves.png", "finished.json", ".lock"}
    neighbors = {"topk-train-neighbors.npy", "topk-val-neighbors.npy"}
    for stage, folder in finished.items():
        with_record = recorded | neighbors if stage == "pretext" else recorded
        picture = "neighbors.png" if stage == "pretext" else "confusion_matrix.png"
        files = {path.name for path in folder.iterdir() if path.is_file()}
        assert files == with_record | {f"{name}.json" for name in with_record} | bare | {picture}


def test_the_files_have_the_published_formats(finished):
    train, val = (np.load(finished["pretext"] / f"topk-{split}-neighbors.npy") for split in ("train", "val"))
    assert train.dtype == val.dtype == np.int64
    assert train.shape == (206, 21) and val.shape == (52, 6)
    assert (train[:, 0] == np.arange(206)).all() and (val[:, 0] == np.arange(52)).all()

    pretext, scanned, labelled = (
        torch.load(folder / "model.pth.tar", weights_only=True) for folder in finished.values()
    )
    assert {name.split(".")[0] for name in pretext} == {"backbone", "contrastive_head"}
    assert scanned.keys() == {"model", "head"} and scanned["head"] == 0
    heads = {"cluster_head.0.weight", "cluster_head.0.bias"}
    assert {name for name in labelled if not name.startswith("backbone.")} == heads

    checkpoint = torch.load(finished["scan"] / "checkpoint.pth.tar", weights_only=True)
    assert checkpoint["epoch"] == 2
    assert type(checkpoint["best_loss"]) is float and type(checkpoint["best_loss_head"]) is int


def test_the_same_seed_gives_bit_identical_weights_and_labels_change_nothing(finished, tmp_path, monkeypatch):
    shuffled = torch.Generator().manual_seed(1)
    few_digits(monkeypatch, lambda targets: targets[torch.randperm(len(targets), generator=shuffled)])
    for stage, folder in run_recipe(tmp_path).items():
        assert same_weights(folder, finished[stage]), stage


def test_another_seed_gives_other_weights(finished, tmp_path):
    assert not same_weights(run_stage("pretext", tmp_path, "seed=1"), finished["pretext"])


@pytest.mark.parametrize("unlabelled", [lambda targets: None, lambda targets: torch.full_like(targets, -1)])
def test_without_labels_label_metrics_are_absent_and_the_weights_are_the_same(
    unlabelled, finished, tmp_path, monkeypatch
):
    few_digits(monkeypatch, unlabelled)
    for stage, folder in run_recipe(tmp_path).items():
        assert same_weights(folder, finished[stage]), stage
        assert not (folder / "confusion_matrix.png").exists()
        names = {name for line in log_of(folder) for name in line}
        assert not {
            name for name in names if "ACC" in name or "NMI" in name or "right" in name or "NN" in name
        }
    assert "val/used_clusters" in epochs_of(tmp_path / "digits" / "scan")[0]
    model = str(tmp_path / "digits" / "pretext" / "model.pth.tar")
    with pytest.raises(UserError, match="label"):
        evaluation.main(["--config_exp", "configs/pretext/simclr_digits.yml", "--model", model, *SMALL])


def take_over(model, root, *overrides):
    """simclr.py with a trained model, and the folder it writes."""
    return run_stage("pretext", root, "--model", str(model), *overrides)


def test_a_trained_model_given_to_simclr_is_mined_with_and_not_trained(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(simclr, "train_epoch", None)
    folder = take_over(finished["pretext"] / "model.pth.tar", tmp_path)
    assert same_weights(folder, finished["pretext"])
    for split in ("train", "val"):
        mined, expected = (
            np.load(place / f"topk-{split}-neighbors.npy") for place in (folder, finished["pretext"])
        )
        assert np.array_equal(mined, expected)
    recorded = {"model.pth.tar", "topk-train-neighbors.npy", "topk-val-neighbors.npy"}
    files = (
        recorded | {f"{name}.json" for name in recorded} | {"neighbors.png", "config.yml", "finished.json"}
    )
    assert {path.name for path in folder.iterdir() if path.is_file()} == files | {"log.jsonl", ".lock"}
    assert same_weights(run_stage("scan", tmp_path), finished["scan"])  # SCAN goes on from there


def test_bare_weights_in_the_checkpoints_place_as_in_the_published_tutorial_are_taken_by_name(
    finished, tmp_path
):
    place = tmp_path / "digits" / "pretext" / "checkpoint.pth.tar"
    place.parent.mkdir(parents=True)
    place.write_bytes((finished["pretext"] / "model.pth.tar").read_bytes())
    with pytest.raises(UserError, match=f"--model {place}"):
        run_stage("pretext", tmp_path)
    assert same_weights(take_over(place, tmp_path), finished["pretext"])


def test_a_finished_run_can_mine_more_neighbors_with_its_own_model(finished, tmp_path):
    folder = run_stage("pretext", tmp_path)
    take_over(folder / "model.pth.tar", tmp_path, "num_neighbors=30")
    more = np.load(folder / "topk-train-neighbors.npy")
    assert more.shape == (206, 31) and same_weights(folder, finished["pretext"])
    assert np.array_equal(more[:, :21], np.load(finished["pretext"] / "topk-train-neighbors.npy"))


@pytest.mark.parametrize("beside_it", [False, True], ids=["elsewhere", "the same folder"])
def test_a_model_trained_here_is_not_replaced_by_another_one(beside_it, finished, tmp_path):
    folder = run_stage("pretext", tmp_path, "seed=1", epochs=1)
    before, other = (folder / "model.pth.tar").read_bytes(), finished["pretext"] / "model.pth.tar"
    if beside_it:
        other = shutil.copy(other, folder / "published.pth.tar")
    with pytest.raises(UserError, match="holds a training run"):
        take_over(other, tmp_path, "seed=1", "epochs=1")
    assert (folder / "model.pth.tar").read_bytes() == before


def test_a_model_that_was_taken_over_is_not_replaced_by_training(finished, tmp_path):
    folder = take_over(finished["pretext"] / "model.pth.tar", tmp_path)
    with pytest.raises(UserError, match="holds a model that was not trained there"):
        run_stage("pretext", tmp_path)
    assert same_weights(folder, finished["pretext"])


def test_a_model_that_is_no_simclr_model_is_named_before_the_data_set_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(simclr, "open_splits", None)
    with pytest.raises(UserError, match=r"typo\.pth\.tar not found"):
        take_over(tmp_path / "typo.pth.tar", tmp_path)


def test_mining_with_bare_weights_in_the_checkpoints_place_may_be_repeated_and_restart_moves_the_folder_aside(
    finished, tmp_path
):
    place = tmp_path / "digits" / "pretext" / "checkpoint.pth.tar"
    place.parent.mkdir(parents=True)
    place.write_bytes((finished["pretext"] / "model.pth.tar").read_bytes())
    for _ in range(2):
        take_over(place, tmp_path)
    folder = take_over(place, tmp_path, "--restart")
    assert same_weights(folder, finished["pretext"]) and not (folder / "checkpoint.pth.tar").exists()
    assert (tmp_path / "digits" / "pretext.old-1" / "checkpoint.pth.tar").exists()


class Stopped(Exception):
    pass


def stop_in_last_epoch(stage, root, overrides, monkeypatch, epochs=2):
    """Run a stage until its last epoch begins."""
    whole_epoch = SCRIPTS[stage].train_epoch

    def train_epoch(*arguments):
        if arguments[-1] == epochs - 1:
            raise Stopped
        return whole_epoch(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(SCRIPTS[stage], "train_epoch", train_epoch)
        run_stage(stage, root, *overrides, epochs=epochs)


def test_scan_keeps_the_best_epoch_before_it_was_stopped(finished, tmp_path, monkeypatch):
    losses = iter([-2.0, -1.0])
    monkeypatch.setattr(scan, "scan_validation", lambda *_: {"total_loss": next(losses)})
    overrides = [f"pretext_dir={finished['pretext']}"]
    stop_in_last_epoch("scan", tmp_path, overrides, monkeypatch)
    best = weights(tmp_path / "digits" / "scan")
    after = weights(run_stage("scan", tmp_path, *overrides))
    assert all(torch.equal(after[name], best[name]) for name in best)


@pytest.mark.usefixtures("no_pictures")
def test_scan_makes_its_best_model_again_where_no_checkpoint_holds_that_epoch(
    finished, tmp_path, monkeypatch
):
    """Of short epochs the first is saved and the second is not."""
    losses = iter([-1.0, -3.0, -3.0, -2.0])  # epochs 1 and 2, then 2 and 3
    monkeypatch.setattr(scan, "scan_validation", lambda *_: {"total_loss": next(losses)})
    folder, overrides = tmp_path / "digits" / "scan", [f"pretext_dir={finished['pretext']}"]
    stop_in_last_epoch("scan", tmp_path, overrides, monkeypatch, epochs=3)
    assert torch.load(folder / "checkpoint.pth.tar", weights_only=True)["epoch"] == 1
    best = weights(folder)
    (folder / "model.pth.tar").unlink()
    after = weights(run_stage("scan", tmp_path, *overrides, epochs=3))
    assert all(torch.equal(after[name], best[name]) for name in best)


@pytest.mark.parametrize("stage", SCRIPTS)
def test_a_restarted_run_goes_on_after_the_last_whole_epoch_and_ends_the_same(
    stage, tmp_path, finished, monkeypatch
):
    overrides = [f"pretext_dir={finished['pretext']}", f"scan_dir={finished['scan']}"]
    overrides += ["confidence_threshold=0.15"] if stage == "selflabel" else []
    stop_in_last_epoch(stage, tmp_path, overrides, monkeypatch)
    folder = run_stage(stage, tmp_path, *overrides)
    assert [line["epoch"] for line in epochs_of(folder)] == [1, 2]
    assert same_weights(folder, finished[stage])


def test_a_finished_stage_given_another_start_is_refused_rather_than_reported_again(finished, tmp_path):
    first = run_stage("scan", tmp_path, f"pretext_dir={finished['pretext']}", epochs=1)
    other = run_stage("pretext", tmp_path, "seed=1", epochs=1)
    with pytest.raises(UserError, match=r"began with other model\.pth\.tar, topk-train-neighbors\.npy"):
        run_stage("scan", tmp_path, f"pretext_dir={other}", epochs=1)
    assert len(epochs_of(first)) == 1


def scan_with_validation_losses(losses, monkeypatch, tmp_path, finished, *overrides):
    """Run SCAN for 3 epochs; `losses` are taken for the heads' validation losses, epoch by epoch. Returns the content
    of model.pth.tar and the weights after each epoch."""
    losses = iter(losses)
    monkeypatch.setattr(scan, "scan_validation", lambda *_: {"total_loss": next(losses)})
    after_epoch, whole_epoch = [], scan.train_epoch

    def train_epoch(run, model, *rest):
        metrics = whole_epoch(run, model, *rest)
        after_epoch.append({name: value.clone() for name, value in model.state_dict().items()})
        return metrics

    monkeypatch.setattr(scan, "train_epoch", train_epoch)
    folder = run_stage("scan", tmp_path, f"pretext_dir={finished['pretext']}", *overrides, epochs=3)
    return torch.load(folder / "model.pth.tar", weights_only=True), after_epoch


def is_epoch(content, after_epoch):
    return [
        all(torch.equal(content["model"][name], weights[name]) for name in weights) for weights in after_epoch
    ]


def test_scan_keeps_the_epoch_of_strictly_lowest_validation_loss(finished, tmp_path, monkeypatch):
    content, after_epoch = scan_with_validation_losses([-1.0, -2.0, -2.0], monkeypatch, tmp_path, finished)
    assert is_epoch(content, after_epoch) == [False, True, False]
    assert content["head"] == 0


def test_scan_keeps_the_best_head_the_first_one_in_a_tie(finished, tmp_path, monkeypatch):
    losses = [-1.0, -1.0, -1.0, -1.0, -3.0, -3.0, -2.0, -2.0, -2.9]  # three heads, three epochs
    content, after_epoch = scan_with_validation_losses(losses, monkeypatch, tmp_path, finished, "num_heads=3")
    assert is_epoch(content, after_epoch) == [False, True, False]
    assert content["head"] == 1


def test_heads_only_scan_leaves_the_backbone_as_the_pretext_task_made_it(finished, tmp_path):
    overrides = [f"pretext_dir={finished['pretext']}", "update_cluster_head_only=True", "num_heads=3"]
    trained = weights(run_stage("scan", tmp_path, *overrides))
    pretext = weights(finished["pretext"])
    backbone = {name for name in pretext if name.startswith("backbone.")}
    assert all(torch.equal(trained[name], pretext[name]) for name in backbone)
    assert {name for name in trained if name not in backbone} == {
        f"cluster_head.{head}.{part}" for head in range(3) for part in ("weight", "bias")
    }


def nothing_confident_in(batches):
    """In place of the loss: keeps nothing in the batches of these numbers, from 1, everything in the others."""

    class Criterion(torch.nn.Module):
        def __init__(self, *_, **__):
            super().__init__()
            self.calls = 0

        def forward(self, weak, strong):
            self.calls += 1
            kept = 0 if self.calls in batches else len(strong)
            return strong.logsumexp(dim=1).mean() * (kept > 0), torch.tensor(kept)

    return Criterion


@pytest.mark.parametrize("ema", [[], ["use_ema=True", "ema_alpha=0.5"]], ids=["plain", "EMA"])
def test_selflabel_skips_and_counts_the_batches_without_a_confident_image(
    ema, finished, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        selflabel, "ConfidenceBasedCE", nothing_confident_in({2, 3})
    )  # of 3: 206 images by 64
    folder = run_stage("selflabel", tmp_path, f"scan_dir={finished['scan']}", *ema, epochs=1)
    (epoch,) = epochs_of(folder)
    assert epoch["train/skipped_steps"] == 2
    assert epoch["train/confident_share"] == pytest.approx(1 / 3)
    optimizer = torch.load(folder / "checkpoint.pth.tar", weights_only=True)["optimizer"]
    assert {state["step"].item() for state in optimizer["state"].values()} == {1}  # Adam went one step


def test_selflabel_under_ema_leaves_the_batch_norm_buffers_as_scan_left_them(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(
        selflabel, "ConfidenceBasedCE", nothing_confident_in({3})
    )  # the last step is a skipped one
    overrides = [f"scan_dir={finished['scan']}", "use_ema=True", "ema_alpha=0.5"]
    trained = weights(run_stage("selflabel", tmp_path, *overrides, epochs=1))
    start = weights(finished["scan"])
    buffers = {name for name in start if "running" in name or "num_batches" in name}
    assert buffers and all(torch.equal(trained[name], start[name]) for name in buffers)
    assert not torch.equal(trained["backbone.conv1.weight"], start["backbone.conv1.weight"])


@pytest.mark.usefixtures("no_pictures")
def test_in_bfloat16_every_parameter_is_trained(tmp_path, monkeypatch):
    """Not under the digits' stem: where a map is one pixel, PyTorch 2.14 leaves parts of a gradient unset on a CPU."""
    optimizers = []

    def build(*arguments):
        optimizers.append(build_optimizer(*arguments))
        return optimizers[-1]

    for stage, script in SCRIPTS.items():
        monkeypatch.setattr(script, "build_optimizer", build)
        overrides = ["model_kwargs.stem=cifar", "precision=bf16"]
        overrides += ["confidence_threshold=0.15"] if stage == "selflabel" else []
        run_stage(stage, tmp_path, *overrides, epochs=1)
        parameters = [parameter for group in optimizers[-1].param_groups for parameter in group["params"]]
        assert len(parameters) > 60
        assert all(
            parameter.grad is not None and parameter.dtype == torch.float32 for parameter in parameters
        )


def test_selflabel_warns_when_a_cluster_dies(finished, tmp_path, monkeypatch):
    used = iter([10, 10, 9])
    shares = {"smallest_share": 0.1, "largest_share": 0.2}
    monkeypatch.setattr(selflabel, "evaluate_clusters", lambda *_: {"used_clusters": next(used, 9), **shares})
    folder = run_stage("selflabel", tmp_path, f"scan_dir={finished['scan']}", "confidence_threshold=0.15")
    (warning,) = (line["warning"] for line in log_of(folder) if "warning" in line)
    assert "epoch 2 uses 9 clusters, 10 before" in warning


@pytest.mark.usefixtures("no_pictures")
def test_selflabel_counts_clusters_before_and_after_an_epoch_in_the_precision_of_the_training(
    finished, tmp_path, monkeypatch
):
    predict, reduced = selflabel.predict, []
    monkeypatch.setattr(
        selflabel, "predict", lambda *a: reduced.append(torch.is_autocast_enabled("cpu")) or predict(*a)
    )
    metrics = {"train/loss": 0.0, "train/confident_share": 1.0}
    monkeypatch.setattr(
        selflabel, "train_epoch", lambda *_: metrics
    )  # which this stem does not allow on a CPU in bf16
    run_stage("selflabel", tmp_path, f"scan_dir={finished['scan']}", "precision=bf16", epochs=1)
    assert reduced == [False, True, True, False]  # confidence; clusters before, after; the result


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("stage", ["scan", "selflabel"])
def test_a_clustering_stage_ends_with_the_cautions_of_its_last_figures(
    stage, finished, tmp_path, monkeypatch
):
    judged = []
    monkeypatch.setattr(
        SCRIPTS[stage], "clustering_warnings", lambda metrics: judged.append(metrics) or ["beware", "twice"]
    )
    overrides = [f"pretext_dir={finished['pretext']}", f"scan_dir={finished['scan']}"]
    overrides += ["confidence_threshold=0.15"] if stage == "selflabel" else []
    lines = log_of(run_stage(stage, tmp_path, *overrides, epochs=1))
    place = next(number for number, line in enumerate(lines) if "final" in line)
    assert lines[place + 1 : place + 3] == [{"warning": "beware"}, {"warning": "twice"}]
    assert len(judged) == 1 and judged[0]["NMI"] == lines[place]["NMI"]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("batch_size", [39, 40])
def test_scan_warns_at_its_start_when_a_batch_has_fewer_than_4_images_a_cluster(
    batch_size, finished, tmp_path, monkeypatch
):
    monkeypatch.setattr(scan, "train_epoch", lambda *_: {})
    lines = log_of(
        run_stage(
            "scan", tmp_path, f"pretext_dir={finished['pretext']}", f"batch_size={batch_size}", epochs=1
        )
    )
    at_start = lines[: next(number for number, line in enumerate(lines) if "epoch" in line)]
    warnings = [line["warning"] for line in at_start if "warning" in line]
    assert len(warnings) == (batch_size == 39)
    for warning in warnings:
        assert "batch_size is 39 for num_classes 10" in warning and "raise batch_size to 40" in warning


@pytest.mark.usefixtures("no_pictures")
def test_scan_logs_the_share_of_val_neighbors_in_one_cluster(finished, tmp_path, monkeypatch):
    heads, predict = [], scan.predict
    monkeypatch.setattr(scan, "train_epoch", lambda *_: {})
    monkeypatch.setattr(scan, "predict", lambda *a: heads.append(predict(*a)) or heads[-1])
    (epoch,) = epochs_of(run_stage("scan", tmp_path, f"pretext_dir={finished['pretext']}", epochs=1))
    clusters, neighbors = heads[0][0].argmax(dim=1), np.load(finished["pretext"] / "topk-val-neighbors.npy")
    same = [clusters[image] == clusters[other] for image, *others in neighbors for other in others]
    assert epoch["val/neighbor_agreement"] == pytest.approx(np.mean(same))


@pytest.mark.usefixtures("no_pictures")
def test_scan_under_a_prior_trains_and_selects_by_it(finished, tmp_path, monkeypatch):
    prior, asked, validation = [55.0, *[5.0] * 9], [], scan.scan_validation
    monkeypatch.setattr(scan, "scan_validation", lambda *a: asked.append(a[2]) or validation(*a))
    overrides = [f"pretext_dir={finished['pretext']}", f"criterion_kwargs.cluster_prior={prior}"]
    folder = run_stage("scan", tmp_path, *overrides)
    assert asked == [prior] * 2  # once an epoch
    assert not same_weights(folder, finished["scan"])


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("clusters", [3, 20])
def test_fewer_and_more_clusters_than_classes_go_through_every_stage_and_figure(
    clusters, finished, tmp_path, capsys
):
    own = [f"num_classes={clusters}", f"confidence_threshold={1.1 / clusters}"]
    run_stage("scan", tmp_path, f"pretext_dir={finished['pretext']}", own[0], epochs=1)
    folder = run_stage("selflabel", tmp_path, *own, epochs=1)
    (final,) = [line for line in log_of(folder) if "final" in line]
    assert len(final["hungarian_match"]) == min(clusters, 10)  # one to one, as far as it goes
    assert 0 < final["ACC"] <= final["ACC many-to-one"] <= 1 and 0 <= final["NMI"] <= 1
    capsys.readouterr()
    model, written = str(folder / "model.pth.tar"), tmp_path / "predictions.csv"
    options = ["--report", "--out", str(written), *SMALL, own[0]]
    evaluation.main(["--config_exp", config_of("selflabel"), "--model", model, *options])
    printed = {
        line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line[:1] == " "
    }
    assert len(printed["sizes"]) == clusters and sum(map(int, printed["sizes"])) == 52
    assert len(written.read_text().splitlines()) == 53
    page = (folder / "report.html").read_text()
    assert page.count('<article class="card"') == clusters and 'id="confusion"' in page


@pytest.mark.parametrize("stage", SCRIPTS)
def test_eval_reports_every_stage(finished, stage, capsys):
    model = str(finished[stage] / "model.pth.tar")
    prototypes = ["--visualize_prototypes"] if stage != "pretext" else []
    evaluation.main(["--config_exp", config_of(stage), "--model", model, *prototypes, *SMALL])
    printed = capsys.readouterr().out
    expected = {
        "pretext": ["top 1 ", "top 5 ", "top 20 "],
        "scan": [
            "ACC",
            "ARI",
            "NMI",
            "AMI",
            "ACC Top-5",
            "hungarian_match",
            "ACC many-to-one",
            "used_clusters",
        ],
    }
    assert all(name in printed for name in expected.get(stage, expected["scan"]))
    for what, name in (("prototypes", "prototypes.png"), ("confusion matrix", "confusion_matrix.png")):
        assert (f"{what}: {finished[stage] / name}\n" in printed) == (finished[stage] / name).exists()
        assert (finished[stage] / name).exists() == (stage != "pretext")
    if stage == "selflabel":  # the figures are those of the end of the stage
        (final,) = (line for line in log_of(finished[stage]) if "final" in line)
        assert f"{final['NMI']:.4f}" in printed


def evaluate_scan(model, *options):
    evaluation.main(["--config_exp", config_of("scan"), "--model", str(model), *options, *SMALL])


def test_eval_draws_the_confusion_matrix_that_the_stage_drew(finished, tmp_path):
    model = shutil.copy(finished["scan"] / "model.pth.tar", tmp_path)
    evaluate_scan(model)
    drawn, expected = (folder / "confusion_matrix.png" for folder in (tmp_path, finished["scan"]))
    assert drawn.read_bytes() == expected.read_bytes()


def test_models_of_other_names_have_pictures_of_their_own(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("utils.report.figures.ROWS_PER_PAGE", 1)  # as many pages as there are clusters in use
    for name in ("scan_digits.pth.tar", "seed1.best.pth"):
        evaluate_scan(
            shutil.copy(finished["scan"] / "model.pth.tar", tmp_path / name), "--visualize_prototypes"
        )
    lines, written = capsys.readouterr().out.splitlines(), {path.name for path in tmp_path.glob("*.png")}
    (pages,) = {line.split()[1] for line in lines if line.strip().startswith("used_clusters")}
    assert int(pages) > 1
    for stem in ("scan_digits", "seed1.best"):
        assert f"confusion matrix: {tmp_path / stem}-confusion_matrix.png" in lines
        assert f"prototypes: {tmp_path / stem}-prototypes-1.png to {stem}-prototypes-{pages}.png" in lines
        own = {f"{stem}-prototypes-{page + 1}.png" for page in range(int(pages))} | {
            f"{stem}-confusion_matrix.png"
        }
        assert own <= written
        written -= own
    assert not written


def test_eval_prints_the_figures_before_it_draws(finished, capsys, monkeypatch):
    printed = []
    monkeypatch.setattr(
        "utils.report.outputs.plot_matching", lambda *_: printed.append(capsys.readouterr().out) or []
    )
    evaluate_scan(finished["scan"] / "model.pth.tar")
    assert "ACC Top-5" in printed[0]


@pytest.mark.parametrize("options", [["--show"], ["--show", "--visualize_prototypes"]], ids=len)
def test_show_opens_the_pictures_that_were_written(options, finished, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(evaluation, "show", shown.extend)
    evaluate_scan(shutil.copy(finished["scan"] / "model.pth.tar", tmp_path), *options)
    names = ["confusion_matrix.png", "prototypes.png"][: len(options)]
    assert shown == [tmp_path / name for name in names]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == names


def test_without_labels_eval_writes_and_shows_the_prototypes_alone(finished, tmp_path, monkeypatch):
    few_digits(monkeypatch, lambda targets: None)
    shown = []
    monkeypatch.setattr(evaluation, "show", shown.extend)
    model = shutil.copy(finished["scan"] / "model.pth.tar", tmp_path)
    with pytest.raises(UserError, match=r"no labels.* give --visualize_prototypes"):
        evaluate_scan(model, "--show")
    evaluate_scan(model, "--show", "--visualize_prototypes")
    assert shown == list(tmp_path.glob("*.png")) == [tmp_path / "prototypes.png"]
