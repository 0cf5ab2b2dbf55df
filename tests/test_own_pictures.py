"""From a flat folder of unlabelled pictures to a table: the commands of a user, on a small network."""

import csv
import os
import shutil

import pytest
import torch
from PIL import Image

import eval as evaluation
from tests.own_pictures import add_oddities, write_digits
from tests.small_runs import SCRIPTS, SMALL, config_of, weights, without_pictures
from utils.errors import UserError
from utils.report.log import read_log, read_results

STAGES = ("pretext", "scan", "selflabel")
LABEL_METRICS = {"ACC", "NMI", "AMI", "ARI", "ACC Top-5", "ACC many-to-one", "balanced ACC", "macro-F1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "my digits"
    labels = write_digits(folder, "train", every=12)
    add_oddities(folder, folder / min(labels))
    return folder


def settings(folder, *overrides):
    own = ["train_db_name=folder", "val_db_name=folder", f"folder.path={folder}", "on_error=skip"]
    return [*own, f"root_dir={folder.parent / 'results'}", *SMALL, "confidence_threshold=0.06", *overrides]


def stage(name, settings):
    SCRIPTS[name].main(["--config_exp", config_of(name), *settings])


@pytest.fixture(scope="module")
def runs(folder):
    """The three stages; the folder of their results, named after the pictures."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        without_pictures(monkeypatch)
        for name in STAGES:
            stage(name, settings(folder, "epochs=2", "num_neighbors=5"))
    return folder.parent / "results" / "my digits"


def evaluate(runs, folder, *options):
    model = str(runs / "selflabel" / "model.pth.tar")
    evaluation.main(["--config_exp", config_of("selflabel"), "--model", model, *settings(folder), *options])


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_without_labels_no_stage_logs_a_figure_that_needs_them(runs):
    of_pretext = {"knn_accuracy", "weighted kNN", "k-means", "right among the top 5"}
    for name in STAGES:
        logged = {key.rpartition("/")[2] for line in read_log(runs / name / "log.jsonl") for key in line}
        assert not logged & (LABEL_METRICS | of_pretext)
        assert not (runs / name / "confusion_matrix.png").exists()
        if name == "scan":
            assert {"consistency", "entropy", "total_loss", "used_clusters", "effective_clusters"} <= logged


def test_every_readable_picture_of_a_folder_has_a_row_in_the_table(runs, folder, capsys):
    evaluate(runs, folder, "--predict", str(folder), "--out", str(folder.parent / "predictions.csv"))
    rows = rows_of(folder.parent / "predictions.csv")
    files = {path.name for path in folder.iterdir()} - {"broken.png", "notes.txt", ".hidden.png"}
    assert [row["path"] for row in rows] == sorted(files)
    assert all(int(row["cluster"]) in range(10) and 0.1 <= float(row["confidence"]) <= 1 for row in rows)
    by_name = {row["path"]: row["cluster"] for row in rows}
    assert len({by_name[name] for name in ("copy.png", "grey.png", "rgba.png", "16-bit.png")}) == 1
    assert f"on {folder}, {len(files)} images" in capsys.readouterr().out


@pytest.mark.usefixtures("no_pictures")
def test_labels_of_some_pictures_right_or_wrong_judge_with_their_number_and_change_no_weight(
    runs, folder, tmp_path
):
    table, names = tmp_path / "labels.csv", sorted(path.name for path in folder.glob("*.PNG"))
    table.write_text("path,label\n" + "".join(f'"{name}",{row % 7}\n' for row, name in enumerate(names[::3])))
    own = settings(folder, "epochs=2", "num_neighbors=5", "run_name=judged", f"folder.labels={table}")
    for name in STAGES:
        stage(name, own)
        there, here = weights(runs / name), weights(runs.parent / "judged" / name)
        assert all(torch.equal(there[tensor], here[tensor]) for tensor in there)
    final = read_results(runs.parent / "judged" / "selflabel" / "log.jsonl")
    assert final.keys() >= LABEL_METRICS and 0 < final["labelled images"] < 0.2 * len(names)


def test_in_place_of_labels_the_figures_are_of_the_clusters_themselves(runs, folder, capsys):
    evaluate(runs, folder, "--out", str(folder.parent / "val.csv"))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line[:1] == " "]
    printed = {name: list(map(float, values)) for name, *values in lines}
    assert not printed.keys() & LABEL_METRICS
    number = round(0.2 * (len(list(folder.glob("*.[pP][nN][gG]"))) - 2))  # not the broken and the hidden one
    assert len(rows_of(folder.parent / "val.csv")) == number
    assert sum(printed["sizes"]) == sum(printed["confidence_histogram"]) == number
    assert [sum(size > 0 for size in printed["sizes"])] == printed["used_clusters"]
    (total,), (consistency,), (entropy,) = (printed[k] for k in ("total_loss", "consistency", "entropy"))
    assert total == pytest.approx(consistency - entropy, abs=2e-4)
    assert 0 <= printed["neighbor_agreement"][0] <= 1 and -1 <= printed["silhouette"][0] <= 1


@pytest.fixture
def names(runs):
    """names.csv beside the model."""
    path = runs / "selflabel" / "names.csv"
    path.write_text("cluster,name\n" + "".join(f"{k},group {k}\n" for k in range(10)))
    yield path
    path.unlink()


def test_the_page_shows_names_copies_and_the_logs_of_every_stage(
    runs, names, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(evaluation, "clustering_warnings", lambda metrics: ["beware"])
    evaluate(runs, folder, "--predict", str(folder), "--report", f"root_dir={tmp_path}")
    page = (runs / "selflabel" / "report.html").read_text()
    assert page.count('<article class="card"') == 10
    assert 'id="duplicates"' in page and "1 group." in page and "group 3" in page
    assert all(f"<figcaption>{name}</figcaption>" in page for name in STAGES)
    assert "<h1>my digits</h1>" in page and f"<dd>{folder}</dd>" in page
    assert "warning: beware" in capsys.readouterr().out.splitlines()


def test_names_that_a_person_gives_stand_in_the_table_with_a_warning_if_they_are_old(
    runs, names, folder, capsys
):
    evaluate(runs, folder, "--predict", str(folder))
    rows = rows_of(runs / "selflabel" / "predictions.csv")
    assert all(row["name"] == f"group {row['cluster']}" for row in rows)
    assert "names.csv" not in capsys.readouterr().out
    os.utime(names, (0, 0))
    evaluate(runs, folder)
    assert f"warning: {names}" in capsys.readouterr().out


def test_a_view_of_another_size_than_in_training_is_told_with_the_config_that_fits(runs, folder, capsys):
    evaluate(runs, folder)
    assert "config.yml" not in capsys.readouterr().out
    evaluate(runs, folder, "transformation_kwargs.crop_size=20")
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "config.yml" in line)
    assert line.startswith("warning") and "transformation_kwargs.crop_size: 16 -> 20" in line
    assert f"--config_exp {runs / 'selflabel' / 'config.yml'}" in line


def test_a_few_new_pictures_that_leave_clusters_empty_speak_of_no_failure(runs, folder, tmp_path, capsys):
    for number in range(2):
        Image.new("RGB", (16, 16), (90 * number, 0, 0)).save(tmp_path / f"{number}.png")
    evaluate(runs, folder, "--predict", str(tmp_path))
    output = capsys.readouterr().out
    assert "smallest_share               0.0000" in output and "warning" not in output


def test_the_command_that_makes_what_is_missing_names_the_pictures(folder):
    with pytest.raises(UserError) as error:
        stage("scan", settings(folder, "run_name=new"))
    options = f"on_error=skip root_dir={folder.parent / 'results'} run_name=new 'folder.path={folder}'"
    assert f"`python simclr.py --config_exp configs/pretext/simclr_folder.yml {options}`" in str(error.value)


def test_a_finished_stage_is_that_of_its_pictures_and_of_no_others(folder, tmp_path, capsys):
    own = tmp_path / folder.name
    shutil.copytree(folder, own)

    def run(name, *overrides):  # is named after the folder
        stage(name, settings(own, "epochs=1", "num_neighbors=5", *overrides))
        return capsys.readouterr().out

    run("pretext")
    assert "my digits/pretext is finished" in run("pretext")
    moved = own.rename(own.parent / "moved")
    assert "my digits/pretext is finished" in run("pretext", f"folder.path={moved}", "run_name=my digits")
    moved.rename(own)
    run("scan")
    (own / "new.png").write_bytes((own / "grey.png").read_bytes())
    with pytest.raises(UserError, match="train images"):
        run("pretext")
    with pytest.raises(UserError, match="train images of folder"):
        run("scan")


def test_tables_and_pages_are_not_made_of_a_pretext_model(runs, folder):
    own = ["--config_exp", config_of("pretext"), "--model", str(runs / "pretext" / "model.pth.tar")]
    for option in ("--out=x.csv", "--report", "--visualize_prototypes", "--show"):
        with pytest.raises(UserError, match=f"pretext.*{option.partition('=')[0]}"):
            evaluation.main([*own, option, *settings(folder)])


def test_the_environment_file_of_eval_is_the_one_that_is_given(runs, folder, tmp_path):
    env = tmp_path / "env.yml"
    env.write_text("seed: ten\n")
    with pytest.raises(UserError, match=r"env\.yml.*seed.*ten"):
        evaluate(runs, folder, "--config_env", str(env))
