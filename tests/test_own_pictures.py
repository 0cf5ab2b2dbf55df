"""From a flat folder of unlabelled pictures to a table: the commands of a user, on a small network."""

import csv
import re
import shlex
import shutil

import pytest
import torch
from PIL import Image

import eval as evaluation
from tests.own_pictures import add_oddities, write, write_digits
from tests.small_runs import SCRIPTS, SMALL, config_of, run_stage, weights, without_pictures
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


@pytest.fixture
def evaluate(runs, folder, capsys):
    """Runs eval.py on a model, the last stage's unless told otherwise; returns what it prints."""

    def evaluate(*options, of="selflabel"):
        model = str(runs / of / "model.pth.tar")
        evaluation.main(["--config_exp", config_of(of), "--model", model, *settings(folder), *options])
        return capsys.readouterr().out

    return evaluate


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


def test_every_readable_picture_of_a_folder_has_a_row_in_the_table(evaluate, folder, tmp_path):
    printed = evaluate("--predict", str(folder), "--out", str(tmp_path / "predictions.csv"))
    rows = rows_of(tmp_path / "predictions.csv")
    files = {path.name for path in folder.iterdir()} - {"broken.png", "notes.txt", ".hidden.png"}
    assert [row["path"] for row in rows] == sorted(files)
    assert all(int(row["cluster"]) in range(10) and 0.1 <= float(row["confidence"]) <= 1 for row in rows)
    by_name = {row["path"]: row["cluster"] for row in rows}
    assert len({by_name[name] for name in ("copy.png", "grey.png", "rgba.png", "16-bit.png")}) == 1
    assert f"on {folder}, {len(files)} images" in printed


def test_some_labels_right_or_wrong_judge_and_change_no_weight(runs, folder, tmp_path, no_pictures):
    table, names = tmp_path / "labels.csv", sorted(path.name for path in folder.glob("*.PNG"))
    table.write_text("path,label\n" + "".join(f'"{name}",{row % 7}\n' for row, name in enumerate(names[::3])))
    own = settings(folder, "epochs=2", "num_neighbors=5", "run_name=judged", f"folder.labels={table}")
    for name in STAGES:
        stage(name, own)
        there, here = weights(runs / name), weights(runs.parent / "judged" / name)
        assert all(torch.equal(there[tensor], here[tensor]) for tensor in there)
    final = read_results(runs.parent / "judged" / "selflabel" / "log.jsonl")
    assert final.keys() >= LABEL_METRICS and 0 < final["labelled images"] < 0.2 * len(names)


def test_in_place_of_labels_the_figures_are_of_the_clusters_themselves(evaluate, folder, tmp_path):
    lines = evaluate("--out", str(tmp_path / "val.csv")).splitlines()
    lines = [line.split() for line in lines if line[:1] == " "]
    printed = {name: list(map(float, values)) for name, *values in lines}
    assert not printed.keys() & LABEL_METRICS
    number = round(0.2 * (len(list(folder.glob("*.[pP][nN][gG]"))) - 2))  # not the broken and the hidden one
    assert len(rows_of(tmp_path / "val.csv")) == number
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


def test_the_page_shows_names_copies_and_all_logs(evaluate, names, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "clustering_warnings", lambda metrics: ["beware"])
    printed = evaluate("--predict", str(folder), "--report", f"root_dir={tmp_path}")
    page = names.with_name("report.html").read_text()
    assert page.count('<article class="card"') == 10
    assert 'id="duplicates"' in page and "1 group." in page and "group 3" in page
    assert all(f"<figcaption>{name}</figcaption>" in page for name in STAGES)
    assert "<h1>my digits</h1>" in page and f"<dd>{folder}</dd>" in page
    assert "warning: beware" in printed.splitlines()


def test_names_that_a_person_gives_stand_in_the_table(evaluate, names, folder):
    assert "names.csv" not in evaluate("--predict", str(folder))
    rows = rows_of(names.with_name("predictions.csv"))
    assert all(row["name"] == f"group {row['cluster']}" for row in rows)


def test_a_view_of_another_size_than_in_training_is_told_with_the_config_that_fits(evaluate, runs):
    assert "config.yml" not in evaluate()
    lines = evaluate("transformation_kwargs.crop_size=20").splitlines()
    (line,) = (line for line in lines if "config.yml" in line)
    assert line.startswith("warning") and "transformation_kwargs.crop_size: 16 -> 20" in line
    assert shlex.split(line)[-2:] == ["--config_exp", str(runs / "selflabel" / "config.yml")]


def test_a_few_new_pictures_that_leave_clusters_empty_speak_of_no_failure(evaluate, tmp_path):
    for number in range(2):
        Image.new("RGB", (16, 16), (90 * number, 0, 0)).save(tmp_path / f"{number}.png")
    printed = evaluate("--predict", str(tmp_path))
    assert "smallest_share               0.0000" in printed and "warning" not in printed


def test_the_command_that_makes_what_is_missing_names_the_pictures(folder):
    with pytest.raises(UserError) as error:
        stage("scan", settings(folder, "run_name=new"))
    (line,) = re.findall("`(.*)`", str(error.value))
    command, options = shlex.split(line)[:4], {*shlex.split(line)[4:]}
    assert command == ["python", "simclr.py", "--config_exp", "configs/pretext/simclr_folder.yml"]
    place = {f"root_dir={folder.parent / 'results'}", "run_name=new"}
    assert options == {"on_error=skip", f"folder.path={folder}"} | place


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
    with pytest.raises(UserError, match="val images"):  # a copy goes where its image is
        run("pretext")
    with pytest.raises(UserError, match="val images of folder"):
        run("scan")


def test_labels_asked_for_on_the_command_line_that_cannot_be_read_end_it(evaluate, folder, tmp_path):
    (tmp_path / "labels.csv").write_text("file;class\n")
    with pytest.raises(UserError, match=r"labels\.csv.*file;class"):
        evaluate("--predict", str(folder), f"folder.labels={tmp_path / 'labels.csv'}")


def test_val_images_of_other_classes_have_no_knn_accuracy(tmp_path, small_data):
    for name in ("cat", "dog"):
        write(tmp_path / "own" / name, *(f"{number}.png" for number in range(6)), size=(16, 16))
    own = ["val_db_name=folder", f"folder.path={tmp_path / 'own'}", "folder.labels=subfolder"]
    finished = run_stage("pretext", tmp_path, *own, "num_neighbors=5", "folder.val_share=0", epochs=1)
    logged = {name.rpartition("/")[2] for line in read_log(finished / "log.jsonl") for name in line}
    assert "k-means" in logged and not logged & {"knn_accuracy", "weighted kNN"}


@pytest.mark.parametrize("option", ["--out=x.csv", "--report", "--visualize_prototypes", "--show"])
def test_tables_and_pages_are_not_made_of_a_pretext_model(evaluate, option):
    with pytest.raises(UserError, match=f"pretext.*{option.partition('=')[0]}"):
        evaluate(option, of="pretext")


def test_the_environment_file_of_eval_is_the_one_that_is_given(evaluate, tmp_path):
    env = tmp_path / "env.yml"
    env.write_text("seed: ten\n")
    with pytest.raises(UserError, match=r"env\.yml.*seed.*ten"):
        evaluate("--config_env", str(env))
