"""The sweep as a user runs it, on few digits, and what it refuses before anything is trained."""

import csv
import math
from pathlib import Path
from unittest.mock import DEFAULT, Mock

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, silhouette_score

import scan
import sweep
from data import build_dataset
from data.augment import val_transform
from data.loader.build import eval_loader
from models import build_model
from tests.small_runs import SMALL, config_of, few_digits, run_stage, without_pictures
from utils.config import load_config
from utils.errors import UserError
from utils.storage.files import read_manifest

SWEPT = ("--vary", "num_classes=3,10", "--seeds", "0", "1", "epochs=2", "optimizer_kwargs.lr=0.01")


@pytest.fixture(autouse=True)
def small_data(monkeypatch):
    few_digits(monkeypatch)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Holds a pretext run and a sweep."""
    root = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as monkeypatch:
        few_digits(monkeypatch)
        without_pictures(monkeypatch)
        run_stage("pretext", root, epochs=1)
        run_sweep(root, *SWEPT)
    return root


@pytest.fixture
def swept(root):
    """The sweep's folder."""
    return root / "digits" / "sweep"


def places(root, run_name="digits"):
    return [f"root_dir={root}", f"run_name={run_name}", f"pretext_dir={root}/digits/pretext", *SMALL]


def run_sweep(root, *words, run_name="digits"):
    """Returns the rows of its table."""
    sweep.main(["--config_exp", config_of("scan"), *places(root, run_name), *words])
    return rows_of(root / run_name / "sweep")


def rows_of(folder):
    with open(folder / "sweep.csv", newline="") as file:
        return list(csv.DictReader(file))


def outputs_of(run, root):
    """Unit-length features (N, D) of the val images and probabilities (N, K), by the whole saved model."""
    cfg = load_config(None, run / "scan" / "config.yml")
    model = build_model(cfg).eval()
    content = torch.load(run / "scan" / "model.pth.tar", weights_only=True)
    model.load_state_dict(content["model"])
    pretext = torch.load(root / "digits" / "pretext" / "model.pth.tar", weights_only=True)
    assert all(torch.equal(content["model"][n], v) for n, v in pretext.items() if n.startswith("backbone."))
    (batch,) = eval_loader(build_dataset(cfg, "val"), val_transform(cfg.transformation_kwargs), "cpu")
    with torch.no_grad():
        features, logits = model.backbone(batch.views[0]), model(batch.views[0])[content["head"]]
    return features / features.norm(dim=1, keepdim=True), logits.softmax(dim=1).double()


def loss_of(p, neighbors):
    """Eq. 2 of arXiv:2005.12320 with entropy weight 1."""
    usage = p.mean(dim=0)
    return (-(p[:, None] * p[neighbors]).sum(dim=2).log().mean() + (usage * usage.log()).sum()).item()


def test_each_row_says_what_the_models_of_its_runs_do(swept, root):
    neighbors = torch.from_numpy(np.load(root / "digits" / "pretext" / "topk-val-neighbors.npy"))
    for row in rows_of(swept):
        runs = [outputs_of(swept / f"num_classes={row['num_classes']},seed={seed}", root) for seed in (0, 1)]
        losses = [loss_of(p, neighbors) / math.log(int(row["num_classes"])) for _, p in runs]
        clusters = [p.argmax(dim=1) for _, p in runs]
        silhouettes = [silhouette_score(runs[seed][0], clusters[seed]) for seed in (0, 1)]
        assert float(row["loss"]) == pytest.approx(np.mean(losses), abs=1e-4)
        assert int(row["used_clusters"]) == min(len(found.unique()) for found in clusters)
        assert float(row["agreement"]) == pytest.approx(adjusted_rand_score(*clusters))
        assert float(row["silhouette"]) == pytest.approx(np.mean(silhouettes), abs=1e-4)


def passes_of_caches(root):
    return [read_manifest(path)["passes"] for path in root.glob("digits/pretext/cached_views*.npy")]


def test_all_runs_share_one_extraction_and_train_the_heads_alone(swept, root):
    assert passes_of_caches(root).count(8) == 1
    assert {path.name for path in swept.iterdir() if path.is_dir()} == {
        f"num_classes={num_classes},seed={seed}" for num_classes in (3, 10) for seed in (0, 1)
    }
    assert not list(swept.rglob("cached_views*"))
    assert (swept / "sweep.png").is_file()


def test_the_same_command_again_trains_nothing_and_writes_the_same(swept, root, monkeypatch, capsys):
    before = (swept / "sweep.csv").read_bytes()
    monkeypatch.setattr(scan, "train_epoch", None)
    run_sweep(root, *SWEPT)
    assert (swept / "sweep.csv").read_bytes() == before
    assert "suggest" in capsys.readouterr().out.strip().splitlines()[-1]


def test_a_stopped_sweep_given_again_trains_what_is_left(root, monkeypatch, no_pictures):
    words = ("--vary", "num_classes=3", "--seeds", "0", "1", "epochs=1")
    with monkeypatch.context() as stopped:
        stopped.setattr(scan, "main", Mock(wraps=scan.main, side_effect=[DEFAULT, KeyboardInterrupt]))
        with pytest.raises(KeyboardInterrupt):
            run_sweep(root, *words, run_name="stopped")
    finished = root / "stopped" / "sweep" / "num_classes=3,seed=0" / "scan" / "model.pth.tar"
    written = finished.stat().st_mtime_ns
    (row,) = run_sweep(root, *words, run_name="stopped")
    assert finished.stat().st_mtime_ns == written and row["seeds"] == "2"


def test_labels_change_nothing_but_the_column_of_acc(swept, root, monkeypatch, no_pictures):
    rows = rows_of(swept)
    shuffled = torch.Generator().manual_seed(1)
    few_digits(monkeypatch, lambda targets: targets[torch.randperm(len(targets), generator=shuffled)])
    others = run_sweep(root, *SWEPT, run_name="shuffled")
    few_digits(monkeypatch, lambda targets: None)
    unlabelled = run_sweep(root, "--vary", "num_classes=3", *SWEPT[2:], run_name="unlabelled")
    accuracies = [[row["ACC"] for row in table] for table in (rows, others, unlabelled)]
    assert accuracies[0] != accuracies[1] and accuracies[2] == [""]
    assert [row | {"ACC": ""} for row in rows] == [row | {"ACC": ""} for row in others]
    assert rows[0] | {"ACC": ""} == unlabelled[0]


def test_a_number_of_cached_views_in_the_config_is_used(root, tmp_path):
    own = tmp_path / "scan.yml"
    own.write_text(Path(config_of("scan")).read_text() + "\ncached_views: 4\n")
    for path, views in ((own, 4), (config_of("scan"), 8)):
        words = ["--config_exp", str(path), "--vary", "num_classes=3", "--seeds", "0", *places(root, "own")]
        _, commands = sweep.plan(sweep.parse_args(words))
        assert sweep.scan_config(commands[0][0]).cached_views == views


def test_lists_and_dotted_keys_are_combined_and_one_seed_has_no_agreement(root, no_pictures):
    scale, rate = "augmentation_kwargs.random_affine.scale", "optimizer_kwargs.lr"
    vary = ["--vary", f"{scale}=[0.8,1.2],[0.9, 1.1]", "--vary", f"{rate}=1e-3"]
    found = run_sweep(root, *vary, "--seeds", "0", "epochs=1", "cached_views=1", run_name="lists")
    assert [(row[scale], row[rate]) for row in found] == [("[0.8,1.2]", "1e-3"), ("[0.9, 1.1]", "1e-3")]
    assert 1 in passes_of_caches(root) and {row["agreement"] for row in found} == {""}


@pytest.mark.parametrize("log", [None, "", '{"epoch": 1}'])
def test_a_run_whose_log_is_gone_or_holds_no_loss_is_named(log, swept, root, no_pictures):
    path = swept / "num_classes=3,seed=0" / "scan" / "log.jsonl"
    whole = path.read_bytes()
    path.unlink() if log is None else path.write_text(log)
    try:
        with pytest.raises(UserError, match=str(path)):
            run_sweep(root, *SWEPT)
    finally:
        path.write_bytes(whole)


def test_variants_whose_names_are_too_long_for_a_folder_have_folders_of_their_own(root, tmp_path):
    priors = [f"[{','.join(['1'] * 99 + [last])}]" for last in "12"]
    vary = ["--vary", f"criterion_kwargs.cluster_prior={','.join(priors)}", "--seeds", "0", "num_classes=100"]
    words = ["--config_exp", config_of("scan"), *vary, *places(root)]
    _, commands = sweep.plan(sweep.parse_args(words))
    folders = {sweep.scan_config(command).scan_dir for (command,) in commands}
    assert len(folders) == 2
    for folder in folders:
        (tmp_path / Path(folder).parent.name).mkdir()


def test_values_of_paths_are_taken_as_they_are_and_a_comma_in_one_is_written_with_a_backslash(root, tmp_path):
    names = ["a/b", "a_b", "[x", "y]", "c,d: #1"]
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "pretext").symlink_to(root / "digits" / "pretext")
    texts = [f"{tmp_path}/{name}/pretext".replace(",", r"\,") for name in names]
    words = ["--config_exp", config_of("scan"), *places(root), "--seeds", "0", "--vary"]
    _, commands = sweep.plan(sweep.parse_args([*words, f"pretext_dir={','.join(texts)}"]))
    configs = [sweep.scan_config(command) for (command,) in commands]
    assert [cfg.pretext_dir for cfg in configs] == [f"{tmp_path}/{name}/pretext" for name in names]
    assert len({cfg.scan_dir for cfg in configs}) == 5


@pytest.mark.parametrize("name", ["a #1: [x]", "$x", "~", "'q'"])
def test_the_runs_of_a_sweep_have_its_config_and_folders_whatever_their_names_are(
    name, root, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / name / "pretext").symlink_to(root / "digits" / "pretext")
    text = Path(__file__).parents[1].joinpath(config_of("scan")).read_text()
    (tmp_path / f"{name}.yml").write_text(text)
    (tmp_path / f"{name}-env.yml").write_text("log_every: 3")
    words = [f"--config_exp=./{name.replace('$', '$$')}.yml", f"run_name={name}", "root_dir=.", *SMALL]
    words += [f"--config_env=./{name.replace('$', '$$')}-env.yml", "--vary", "num_classes=3", "--seeds", "0"]
    folder, ((command,),) = sweep.plan(sweep.parse_args(words))
    cfg = sweep.scan_config(command)
    assert folder == Path(name, "sweep") and Path(cfg.pretext_dir) == Path(name, "pretext")
    assert cfg.run_name == f"{name}/sweep/num_classes=3,seed=0" and cfg.log_every == 3


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--vary", "num_clases=5,10"], r"'num_clases'.*'num_classes'"),
        (["--vary", "num_classes"], r"--vary num_classes"),
        (["--vary", "num_classes=5,,8"], r"num_classes=5,,8"),
        (["--vary", "num_classes=5,05"], r"num_classes=05,seed=0"),
        (["--vary", "num_classes=5", "--seeds", "0", "0"], r"num_classes=5,seed=0"),
        (["--vary", "num_classes=5", "--seeds", "epochs=1"], r"--seeds"),
        (["--vary", "num_classes=5", "--vary", "num_classes=8"], r"--vary num_classes"),
        (["--vary", "root_dir=a,b"], r"root_dir"),
        (["--vary", "seed=0,1"], r"seed.*--seeds"),
        (["--vary", "num_classes=5", "update_cluster_head_only=False"], r"update_cluster_head_only"),
        (["--vary", "num_classes=5", "pretext_dir=nowhere"], r"nowhere/model\.pth\.tar"),
        (["--vary", "num_classes=5", "--config_exp", config_of("pretext")], r"setup: simclr"),
        ([], r"--vary"),
    ],
)
def test_a_mistake_ends_in_one_line_before_anything_is_trained(words, named, root, tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "main", None)
    own = [f"root_dir={tmp_path}", f"pretext_dir={root}/digits/pretext"]
    with pytest.raises(UserError, match=named) as error:
        sweep.main(["--config_exp", config_of("scan"), *own, *words])
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
