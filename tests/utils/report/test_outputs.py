"""What an evaluation leaves: the table of predictions, names for clusters, files beside the model."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from data.dataset import ResidentDataset, StreamedDataset
from utils.config import load_config
from utils.errors import UserError
from utils.report.outputs import about_run, beside, captions, config_of, read_names, write_predictions

PROBABILITIES = torch.tensor([[0.1, 0.7, 0.2], [0.25, 0.15, 0.6], [0.5, 0.5, 0.0]])


def data_set(files, targets=None, classes=()):
    source = StreamedDataset(Path("folder"), np.array(files), np.arange(3), targets, list(classes), side=8)
    return ResidentDataset(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), targets, list(classes), source)


def rows_of(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_each_image_has_a_row_in_order_with_its_two_likeliest_clusters(tmp_path):
    dataset = data_set([b"b.png", b"a.png", b"c.png"], torch.tensor([1, -1, 0]), ["cat", "dog"])
    write_predictions(tmp_path / "out.csv", dataset, PROBABILITIES, {2: "round things"})
    rows = rows_of(tmp_path / "out.csv")
    assert list(rows[0]) == [
        "path",
        "cluster",
        "confidence",
        "second_cluster",
        "second_confidence",
        "name",
        "label",
    ]
    assert [list(row.values()) for row in rows[:2]] == [
        ["b.png", "1", "0.700000", "2", "0.200000", "", "dog"],
        ["a.png", "2", "0.600000", "0", "0.250000", "round things", ""],
    ]
    assert {rows[2]["cluster"], rows[2]["second_cluster"]} == {"0", "1"} and rows[2]["label"] == "cat"


def test_names_of_files_and_clusters_come_back_whatever_is_in_them(tmp_path):
    files = [b'a, "b".png', b"c\nd.png", b"\xff.png"]
    write_predictions(tmp_path / "out.csv", data_set(files), PROBABILITIES, {1: 'x, "y"', 2: "é"})
    rows = rows_of(tmp_path / "out.csv")
    assert [os.fsencode(row["path"]) for row in rows] == files
    assert [row["name"] for row in rows[:2]] == ['x, "y"', "é"] and all(row["label"] == "" for row in rows)


def test_images_without_files_are_known_by_their_place(tmp_path):
    dataset = ResidentDataset(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), None, [])
    write_predictions(tmp_path / "out.csv", dataset, PROBABILITIES, {})
    assert [row["path"] for row in rows_of(tmp_path / "out.csv")] == ["0", "1", "2"]


def test_names_are_read_by_cluster_and_empty_ones_are_none(tmp_path):
    assert read_names(tmp_path / "names.csv", 3) == {}
    (tmp_path / "names.csv").write_text('cluster,name\n2,"cats, dogs"\n0, \n1,trees\n', encoding="utf-8-sig")
    assert read_names(tmp_path / "names.csv", 3) == {2: "cats, dogs", 1: "trees"}


@pytest.mark.parametrize(
    "table",
    [
        "cluster,name\n3,x\n",
        "cluster,name\n-1,x\n",
        "1,x\n2,y\n",
        "cluster,name\n1\n",
        "cluster,name\n1,cats, dogs\n",
    ],
)
def test_names_that_fit_no_cluster_are_refused(table, tmp_path):
    (tmp_path / "names.csv").write_text(table)
    with pytest.raises(UserError, match="should have the columns cluster, 0 to 2, and name"):
        read_names(tmp_path / "names.csv", 3)


def test_two_names_of_a_cluster_are_refused_and_one_may_stand_twice(tmp_path):
    (tmp_path / "names.csv").write_text("cluster,name\n1,cats\n1,cats\n1,\n")
    assert read_names(tmp_path / "names.csv", 3) == {1: "cats"}
    (tmp_path / "names.csv").write_text("cluster,name\n1,cats\n1,dogs\n")
    with pytest.raises(UserError, match="cluster 1 has two names, cats and dogs"):
        read_names(tmp_path / "names.csv", 3)


def test_a_quote_that_is_not_closed_is_refused(tmp_path):
    (tmp_path / "names.csv").write_text('cluster,name\n1,"cats\n2,dogs\n')
    with pytest.raises(UserError, match="cannot be read as CSV"):
        read_names(tmp_path / "names.csv", 3)


def test_names_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "names.csv").write_bytes(b"cluster,name\n1,\xff\n")
    with pytest.raises(UserError, match="cannot be read as CSV in UTF-8"):
        read_names(tmp_path / "names.csv", 3)


def test_a_cluster_is_called_by_the_name_given_else_by_the_class_it_is_matched_to():
    metrics = {"hungarian_match": [(0, 1), (1, 0)]}
    found = captions(3, {1: "trees"}, metrics, ["cat", "dog"])
    assert found == {0: "cluster 0: dog", 1: "cluster 1: trees", 2: "cluster 2"}
    assert captions(1, {}, {}, []) == {0: "cluster 0"}


def test_the_page_shows_the_logs_of_the_stages_up_to_the_models_own(tmp_path):
    for stage in ("pretext", "scan", "selflabel", "other"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "log.jsonl").write_text("{}\n")
    places = [f"root_dir={tmp_path}", "run_name=.", f"pretext_dir={tmp_path / 'other'}"]
    logs = {}
    for stage in ("scan", "selflabel"):
        cfg = load_config(None, f"configs/{stage}/{stage}_digits.yml", places)
        about = about_run(cfg, tmp_path / stage / "model.pth.tar", "7 images")
        logs[stage] = {name: str(log.relative_to(tmp_path)) for name, log in about["logs"].items()}
        assert about["summary"]["images"] == "7 images" and about["summary"]["trained on"] == "digits"
    assert logs["scan"] == {"pretext": "other/log.jsonl", "scan": "scan/log.jsonl"}
    assert logs["selflabel"] == logs["scan"] | {"selflabel": "selflabel/log.jsonl"}
    (tmp_path / "other" / "log.jsonl").unlink()
    assert about_run(cfg, tmp_path / "selflabel" / "model.pth.tar", "")["logs"].keys() == {
        "scan",
        "selflabel",
    }


def test_the_config_of_a_model_lies_beside_it_unless_it_is_none(tmp_path):
    cfg, path = load_config(None, "configs/scan/scan_digits.yml", ["seed=1"]), tmp_path / "config.yml"
    assert config_of(tmp_path / "model.pth.tar", cfg) is cfg
    path.write_text("seed: [")
    assert config_of(tmp_path / "model.pth.tar", cfg) is cfg
    path.write_text("seed: 7\n")
    assert config_of(tmp_path / "model.pth.tar", cfg).seed == 7


@pytest.mark.parametrize(
    "model, place",
    [
        ("a/model.pth.tar", "a/names.csv"),
        ("a/scan_stl-10.pth.tar", "a/scan_stl-10-names.csv"),
        ("a/x.pth", "a/x-names.csv"),
    ],
)
def test_files_beside_a_model_carry_its_name_unless_it_is_that_of_a_stage(model, place):
    assert beside(Path(model), "names.csv") == Path(place)
