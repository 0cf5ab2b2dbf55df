"""Outputs of eval.py: the table of predictions, names for clusters, files beside the model."""

import csv
import os
import sys
from argparse import Namespace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageShow

from data.dataset import ResidentDataset, StreamedDataset
from utils.config import load_config
from utils.errors import RunError, UserError
from utils.report import outputs
from utils.report.cluster_cards import Clustering
from utils.report.outputs import about_run, beside, check_places, model_mark, place_of, read_names

PROBABILITIES = torch.tensor([[0.1, 0.7, 0.2], [0.25, 0.15, 0.6], [0.5, 0.5, 0.0]])


def data_set(files, targets=None, classes=()):
    source = StreamedDataset(Path("folder"), np.array(files), np.arange(3), targets, list(classes), side=8)
    return ResidentDataset(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), targets, list(classes), source)


def written(folder, dataset, names=()):
    path = folder / "out.csv"
    outputs.write_predictions(path, dataset, PROBABILITIES, dict(names))
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_each_image_has_a_row_in_order_with_its_two_likeliest_clusters(tmp_path):
    dataset = data_set([b"b.png", b"a.png", b"c.png"], torch.tensor([1, -1, 0]), ["cat", "dog"])
    rows = written(tmp_path, dataset, {2: "round things"})
    assert ",".join(rows[0]) == "path,cluster,confidence,second_cluster,second_confidence,name,label"
    assert [list(row.values()) for row in rows[:2]] == [
        ["b.png", "1", "0.700000", "2", "0.200000", "", "dog"],
        ["a.png", "2", "0.600000", "0", "0.250000", "round things", ""],
    ]
    assert {rows[2]["cluster"], rows[2]["second_cluster"]} == {"0", "1"} and rows[2]["label"] == "cat"


def test_names_of_files_and_clusters_come_back_whatever_is_in_them(tmp_path):
    files = [b'a, "b".png', b"c\rd\n.png", b"\xff.png"]
    rows = written(tmp_path, data_set(files), {1: 'x, "y"', 2: "é"})
    assert [os.fsencode(row["path"]) for row in rows] == files
    assert [row["name"] for row in rows[:2]] == ['x, "y"', "é"] and all(row["label"] == "" for row in rows)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.pth.tar"
    path.touch()
    return path


def test_names_are_read_by_cluster_and_empty_ones_are_none(model):
    assert read_names(model, 3) == {}
    table = 'cluster,name\n2,"cats, dogs"\n0, \n 1 ,trees\n1.0,trees\n0\n,\n'
    model.with_name("names.csv").write_text(table, encoding="utf-8-sig")
    assert read_names(model, 3) == {2: "cats, dogs", 1: "trees"}


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (b"cluster,name\n3,x\n", "'3'"),
        (b"1,x\n2,y\n", "cluster"),
        (b"cluster,name\n1,cats, dogs\n", "dogs"),
        (b"cluster,name\n1,cats\n1,dogs\n", "cats and dogs"),
        (b'cluster,name\n1,"cats\n2,dogs\n', "CSV"),
        (b"cluster,name\n1,\xff\n", "UTF-8"),
    ],
)
def test_names_that_fit_no_cluster_are_refused(table, problem, model):
    path = model.with_name("names.csv")
    path.write_bytes(table)
    with pytest.raises(UserError, match=problem) as error:
        read_names(model, 3)
    assert str(path) in str(error.value)


def test_names_that_cannot_be_read_are_refused(model):
    path = model.with_name("names.csv")
    path.mkdir()
    with pytest.raises(UserError, match=str(path)):
        read_names(model, 3)


def test_names_tell_whether_they_were_given_for_this_model_whatever_their_time(model, capsys):
    path, own = model.with_name("names.csv"), model_mark(model)
    for mark, warned in ((own, False), ("", False), ("sha256:0123456789ab", True)):
        path.write_text(f"cluster,name,model\n0,red,{mark}\n")
        os.utime(path, (0, 0))  # a copy has other times
        assert read_names(model, 3) == {0: "red"}
        assert (str(path) in capsys.readouterr().out) == warned
    path.write_text("cluster,name\n0,red\n")  # by hand
    assert read_names(model, 3) == {0: "red"} and capsys.readouterr().out == ""


def asked_for(model, **options):
    nothing = {"predict": None, "out": None, "report": None, "visualize_prototypes": None}
    return Namespace(model=model, **nothing | options)


def test_outputs_lie_beside_the_model_or_the_page(model, tmp_path):
    names = "report.html", "predictions.csv", "prototypes.png"
    beside_the_model = asked_for(model, report=True)
    assert [place_of(beside_the_model, name) for name in names] == [tmp_path / name for name in names]
    elsewhere = asked_for(tmp_path / "a.pth", report=Path("b/page.html"), out=Path("c.csv"))
    found = [str(place_of(elsewhere, name)) for name in names]
    assert found == ["b/page.html", "c.csv", "b/a-prototypes.png"]


@pytest.mark.parametrize("option, ending", [("report", "html"), ("out", "csv")])
def test_a_place_that_cannot_be_written_is_refused_and_the_option_is_the_remedy(
    model, option, ending, monkeypatch
):
    def asked(place):
        return asked_for(model, **{option: Path(place)})

    check_places(asked(model.parent / f"new.{ending}"))
    for wrong in (model.parent / "nowhere" / f"new.{ending}", model.parent):
        with pytest.raises(UserError, match=f"--{option}.*{wrong}"):
            check_places(asked(wrong))
    with pytest.raises(UserError, match=f"--{option}"):  # the table would lie beside the page
        check_places(
            Namespace(**vars(asked(model.parent / "nowhere" / f"new.{ending}")) | {"predict": "pictures"})
        )
    if option == "report":  # no slip takes the place of a model
        with pytest.raises(UserError, match=str(model)):
            check_places(asked(model))
    monkeypatch.setattr(outputs.os, "access", lambda folder, _: folder != model.parent)
    beside_the_model = {"report": {"report": True}, "out": {"predict": "pictures"}}[option]
    with pytest.raises(UserError, match=rf"{model.parent}.*--{option} FILE") as error:
        check_places(asked_for(model, **beside_the_model))
    assert "root_dir" not in str(error.value)


@pytest.mark.parametrize("stage", ["scan", "selflabel"])
def test_the_page_shows_the_logs_of_the_stages_up_to_the_models_own(stage, tmp_path):
    for name in ("pretext", "scan", "selflabel", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").touch()
        (tmp_path / name / "model.pth.tar").touch()
    places = [f"root_dir={tmp_path}", "run_name=.", f"pretext_dir={tmp_path / 'other'}"]
    cfg = load_config(None, f"configs/{stage}/{stage}_digits.yml", places)
    about = about_run(cfg, tmp_path / stage / "model.pth.tar", "7 images")
    folders = {"pretext": "other", "scan": "scan", stage: stage}
    assert about["logs"] == {name: tmp_path / folder / "log.jsonl" for name, folder in folders.items()}
    assert about["summary"]["images"] == "7 images" and about["summary"]["trained on"] == "digits"
    (tmp_path / "other" / "log.jsonl").unlink()
    assert "pretext" not in about_run(cfg, tmp_path / stage / "model.pth.tar", "")["logs"]


def test_clusters_have_captions_and_a_folder_that_cannot_be_written_to_costs_the_confusion_matrix_alone(
    model, monkeypatch, capsys
):
    monkeypatch.setattr(outputs, "save_png", Mock(side_effect=RunError("read-only")))
    monkeypatch.setattr(outputs, "plot_prototypes", plot_prototypes := Mock(return_value=[model]))
    options = {"predict": None, "report": False, "visualize_prototypes": True}
    asked = Namespace(model=model, out=model.with_name("a.csv"), **options)
    dataset = data_set([b"a.png", b"b.png", b"c.png"], torch.tensor([0, 1, 0]), ["cat", "dog"])
    metrics = {"hungarian_match": [(0, 1), (1, 0)]}
    clustering = Clustering(dataset, torch.eye(3), torch.eye(3), metrics, {1: "trees"})
    assert outputs.write_outputs(asked, None, "3 images", clustering) == [model]
    assert plot_prototypes.call_args.args[2] == {0: "cluster 0: dog", 1: "cluster 1: trees", 2: "cluster 2"}
    assert asked.out.is_file() and "read-only" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "place"),
    [
        ("a/model.pth.tar", "a/names.csv"),
        ("a/stl-10.pth.tar", "a/stl-10-names.csv"),
        ("x.pth", "x-names.csv"),
    ],
)
def test_files_beside_a_model_carry_its_name_unless_it_is_that_of_a_stage(model, place):
    assert beside(Path(model), "names.csv") == Path(place)


# --show


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Two pictures, and no display."""
    for variable in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        Image.new("RGB", (2, 2)).save(path)
    return paths


@pytest.mark.parametrize("variable", ["DISPLAY", "WAYLAND_DISPLAY", None])
@pytest.mark.parametrize("has_viewer", [True, False])
def test_where_no_window_can_be_opened_show_names_the_pictures(
    variable, has_viewer, pictures, monkeypatch, capsys
):
    opened = []
    monkeypatch.setattr(ImageShow, "show", lambda image: opened.append(image) or has_viewer)
    if variable:
        monkeypatch.setenv(variable, ":0")
    outputs.show(pictures)
    said = capsys.readouterr().out
    assert len(opened) == (2 if variable else 0)
    assert all((str(path) in said) != bool(variable and has_viewer) for path in pictures)
