"""eval.py on the models of a whole run: what it prints, writes and shows."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import ImageShow

import eval as evaluation
from tests.small_runs import SCRIPTS, SMALL, config_of, few_digits
from utils.errors import UserError


@pytest.fixture(autouse=True)
def small_data(monkeypatch):
    few_digits(monkeypatch)


def evaluate(stage, model, *options):
    evaluation.main(["--config_exp", config_of(stage), "--model", str(model), *options, *SMALL])


@pytest.fixture
def model(finished, tmp_path):
    """SCAN's model, alone in a folder."""
    return shutil.copy(finished["scan"] / "model.pth.tar", tmp_path)


@pytest.fixture
def shown(monkeypatch):
    """The pictures that --show opens."""
    paths = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(ImageShow, "show", lambda image: paths.append(Path(image.filename)) or True)
    return paths


OF_CLUSTERS = ("ACC", "ARI", "NMI", "AMI", "ACC Top-5", "hungarian_match", "ACC many-to-one", "used_clusters")


@pytest.mark.parametrize("stage", SCRIPTS)
def test_eval_reports_every_stage(stage, finished, tmp_path, capsys):
    folder = shutil.copytree(finished[stage], tmp_path / stage)
    prototypes = ["--visualize_prototypes"] if stage != "pretext" else []
    evaluate(stage, folder / "model.pth.tar", *prototypes)
    printed = capsys.readouterr().out
    expected = ("top 1 ", "top 5 ", "top 20 ") if stage == "pretext" else OF_CLUSTERS
    assert all(name in printed for name in expected)
    for name in ("prototypes.png", "confusion_matrix.png"):
        assert (str(folder / name) in printed) == (folder / name).exists() == (stage != "pretext")
    if stage == "selflabel":  # the figures are those of the end of the stage
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        (final,) = (line for line in lines if "final" in line)
        assert f"{final['NMI']:.4f}" in printed


def test_eval_draws_the_confusion_matrix_that_the_stage_drew(model, finished, tmp_path):
    evaluate("scan", model)
    drawn, expected = (folder / "confusion_matrix.png" for folder in (tmp_path, finished["scan"]))
    assert drawn.read_bytes() == expected.read_bytes()


def test_models_of_other_names_have_pictures_of_their_own(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("utils.report.figures.ROWS_PER_PAGE", 1)  # as many pages as there are clusters in use
    expected = set()
    for stem, end in (("scan_digits", ".pth.tar"), ("seed1.best", ".pth")):
        evaluate("scan", shutil.copy(model, tmp_path / f"{stem}{end}"), "--visualize_prototypes")
        lines = capsys.readouterr().out.splitlines()
        (pages,) = (int(line.split()[1]) for line in lines if line.strip().startswith("used_clusters"))
        assert pages > 1
        expected |= {f"{stem}-prototypes-{page + 1}.png" for page in range(pages)}
        expected |= {f"{stem}-confusion_matrix.png"}
    assert {path.name for path in tmp_path.glob("*.png")} == expected


def test_eval_prints_the_figures_before_it_draws(model, capsys, monkeypatch):
    printed = []
    drawing = "utils.report.outputs.matching_figure"
    monkeypatch.setattr(drawing, lambda *_: printed.append(capsys.readouterr().out))
    evaluate("scan", model)
    assert "ACC Top-5" in printed[0]


@pytest.mark.parametrize("content", ["seed: [", "", "seed: 1"])
def test_a_damaged_config_beside_the_model_is_an_error(content, model, tmp_path):
    (tmp_path / "config.yml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yml"):
        evaluate("scan", model)


@pytest.mark.parametrize("library", ["sklearn.metrics", "jinja2"])
def test_a_broken_library_is_found_before_the_images_are_read(library, model, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)  # its import fails
    monkeypatch.setattr(evaluation, "build_dataset", None)
    with pytest.raises(UserError, match=library):
        evaluate("scan", model, "--report")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
def test_a_table_takes_the_place_of_no_device(model, tmp_path):
    device = tmp_path / "null"
    os.mkfifo(device)
    with pytest.raises(UserError, match=str(device)):
        evaluate("scan", model, "--out", str(device))
    assert device.is_fifo()


@pytest.mark.parametrize("options", [["--show"], ["--show", "--visualize_prototypes"]], ids=len)
def test_show_opens_the_pictures_that_were_written(options, model, tmp_path, shown):
    evaluate("scan", model, *options)
    names = ["confusion_matrix.png", "prototypes.png"][: len(options)]
    assert shown == [tmp_path / name for name in names]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == names


def test_without_labels_eval_shows_the_prototypes_alone_and_refuses_to_judge_neighbors(
    model, finished, tmp_path, monkeypatch, shown
):
    few_digits(monkeypatch, lambda targets: None)
    with pytest.raises(UserError, match="--visualize_prototypes"):
        evaluate("scan", model, "--show")
    evaluate("scan", model, "--show", "--visualize_prototypes")
    assert shown == list(tmp_path.glob("*.png")) == [tmp_path / "prototypes.png"]
    with pytest.raises(UserError, match="label"):
        evaluate("pretext", finished["pretext"] / "model.pth.tar")


# -- places


@pytest.fixture
def moved(finished, tmp_path):
    """The results of all stages, copied elsewhere under another name; returns the run's folder."""
    run = tmp_path / "other results" / "renamed"
    for stage, folder in finished.items():
        shutil.copytree(folder, run / stage)
    return run


def own(folder):
    """The options for a model and its own settings."""
    return ["--config_exp", str(folder / "config.yml"), "--model", str(folder / "model.pth.tar")]


def page_of(monkeypatch):
    """What the page is told of the run, instead of the page."""
    told = {}
    monkeypatch.setattr("utils.report.outputs.write_report", lambda path, *_: told.update(_[-1], path=path))
    return told


def test_a_copied_tree_is_evaluated_by_its_own_files_and_the_page_lies_where_it_is_asked_for(
    moved, tmp_path, monkeypatch
):
    told, page = page_of(monkeypatch), tmp_path / "page.html"
    found = {path: path.stat().st_mtime_ns for path in moved.rglob("*")}
    evaluation.main([*own(moved / "scan"), "--report", str(page)])
    assert told["path"] == page and (tmp_path / "confusion_matrix.png").is_file()
    assert told["logs"] == {stage: moved / stage / "log.jsonl" for stage in ("pretext", "scan")}
    assert told["title"] == "renamed"
    assert {path: path.stat().st_mtime_ns for path in moved.rglob("*")} == found  # may be mounted read-only


def test_the_page_of_a_model_without_its_tree_shows_no_curves_of_a_run_that_only_has_the_name(
    finished, moved, tmp_path, monkeypatch
):
    told, alone = page_of(monkeypatch), tmp_path / "alone"
    shutil.copytree(finished["scan"], alone)
    namesake = tmp_path / "results" / "digits" / "pretext"
    shutil.copytree(moved / "pretext", namesake)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("utils.report.outputs.matching_figure", lambda *_: None)
    words = [*own(alone), "--report"]
    evaluation.main(words)
    assert told["logs"].keys() == {"pretext", "scan"}  # the same model
    with open(namesake / "model.pth.tar", "ab") as file:
        file.write(b"another")
    evaluation.main(words)
    assert told["logs"] == {"scan": alone / "log.jsonl"}


def test_what_the_command_line_gives_wins_over_the_settings_beside_the_model(moved, tmp_path, monkeypatch):
    told, asked = page_of(monkeypatch), []
    monkeypatch.setattr(evaluation, "judge_without_labels", lambda *words: asked.append(words[3:]) or {})
    other = tmp_path / "pretext"
    other.mkdir()
    (other / "log.jsonl").touch()
    prior = "criterion_kwargs.cluster_prior=[1,2,3,4,5,6,7,8,9,9]"
    given = [f"pretext_dir={other}", "knn_backend=torch", prior]  # the first is not taken for the page
    evaluate("scan", moved / "scan" / "model.pth.tar", "--report", *given)
    assert asked == [(str(other), "torch", [1, 2, 3, 4, 5, 6, 7, 8, 9, 9])]
    assert told["logs"]["pretext"] == other / "log.jsonl" and told["path"] == moved / "scan" / "report.html"


PAGES = [("seed=1", True, ["seed=1"]), ("k=5/p.html", Path("k=5/p.html"), [])]


@pytest.mark.parametrize("word, report, overrides", PAGES)
def test_a_setting_after_report_is_a_setting_and_a_page_with_a_sign_is_a_page(word, report, overrides):
    asked = evaluation.parse_args(["--config_exp", "a.yml", "--model", "m", "--report", word])
    assert (asked.report, asked.overrides) == (report, overrides)


def test_the_folder_of_a_model_is_no_model_and_the_file_in_it_is_named(finished):
    with pytest.raises(UserError, match=rf"{finished['scan']} .*{finished['scan']}/model\.pth\.tar"):
        evaluate("scan", finished["scan"])
    with pytest.raises(UserError, match=rf"{finished['scan']}/config\.yml"):
        evaluation.main(["--config_exp", str(finished["scan"]), "--model", "any"])
