import json
import math
import re
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock, call

import numpy as np
import pytest

from utils.console import print_metrics
from utils.run.logger import Logger

FIND_TENSORBOARD = Logger.find_tensorboard  # switched off for the tests of this folder


@pytest.fixture
def writer(monkeypatch):
    """In place of TensorBoard's writer."""
    writer = MagicMock()
    replace_tensorboard(monkeypatch, SimpleNamespace(SummaryWriter=writer))
    return writer


def replace_tensorboard(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)


def logger(folder):
    """As in a run: TensorBoard is looked for before the first epoch."""
    log = Logger(folder)
    FIND_TENSORBOARD(log)
    return log


def printed(capsys):
    """The console's text without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


METRICS = {"train/loss": -3.25, "train/images_per_second": 1234.5, "val/ACC": 0.8125, "val/used_clusters": 10}


def test_an_epoch_is_one_json_line_and_on_the_console_a_line_a_split_with_the_remark(tmp_path, capsys):
    Logger(tmp_path).epoch(7, METRICS, "[7/50, 1.0 min left]")
    assert lines_of(tmp_path) == [{"epoch": 7, **METRICS}]  # on the disk at once, the remark is not in it
    text = printed(capsys)
    train, val = (text[text.index(split) :] for split in ("train", "val"))
    assert re.match(r"epoch +7 ", text)
    assert re.match(r"train +loss -3\.2500 +images_per_second 1234\b", train)
    assert re.match(r"val +ACC 0\.8125 +used_clusters 10\b", val)
    assert "[7/50, 1.0 min left]" in text


def test_tensorboard_gets_every_metric_at_its_epoch_where_it_is_installed(writer, tmp_path):
    log = logger(tmp_path)
    log.epoch(1, {"train/loss": 2.0})
    log.epoch(2, {"train/loss": 1.0, "val/ACC": 0.5})
    (made,) = writer.call_args_list
    assert made.args == (str(tmp_path / "tensorboard"),) and len(made.kwargs["filename_suffix"]) > 4
    first = [call.add_scalar("train/loss", 2.0, 1), call.flush()]
    second = [call.add_scalar("train/loss", 1.0, 2), call.add_scalar("val/ACC", 0.5, 2), call.flush()]
    assert writer.return_value.method_calls == first + second


def test_a_second_logger_goes_on_in_the_same_file_after_a_line_that_a_full_disk_cut_off(tmp_path):
    Logger(tmp_path).epoch(1, {"train/loss": 1.0})
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"epo')
    Logger(tmp_path).note("resumed")
    first, _, last = (tmp_path / "log.jsonl").read_text().splitlines()
    assert first == '{"epoch": 1, "train/loss": 1.0}' and last == '{"note": "resumed"}'


def test_sentences_go_to_console_and_file_and_a_warning_says_that_it_is_one(tmp_path, capsys):
    log = Logger(tmp_path)
    log.heading("scan on digits")
    log.note("loaded 120 of 120")
    log.warn("a cluster died")
    assert printed(capsys).splitlines() == ["scan on digits", "loaded 120 of 120", "warning: a cluster died"]
    assert lines_of(tmp_path) == [{"note": "loaded 120 of 120"}, {"warning": "a cluster died"}]


def test_final_metrics_are_printed_under_their_title_and_are_one_line_of_the_file(tmp_path, capsys):
    metrics = {"ACC": 0.5, "hungarian_match": [[0, 1], [1, 0]]}
    Logger(tmp_path).final("SCAN on the val split", metrics)
    assert [line.split() for line in printed(capsys).splitlines()] == [
        ["SCAN", "on", "the", "val", "split"],
        ["ACC", "0.5000"],
        ["hungarian_match", "0>1", "1>0"],
    ]
    assert lines_of(tmp_path) == [{"final": "SCAN on the val split", **metrics}]


def test_a_long_matching_is_cut_on_the_console(capsys):
    print_metrics("title", {"hungarian_match": [(k, k) for k in range(21)]})
    line = printed(capsys).splitlines()[1]
    assert "19>19" in line and "20>20" not in line and line.endswith("...")


BROKEN_WRITERS = {
    "made": lambda writer: writer,
    "written": lambda writer: writer.return_value.add_scalar,
    "flushed": lambda writer: writer.return_value.flush,
}


@pytest.mark.parametrize("part", BROKEN_WRITERS)
def test_a_broken_tensorboard_costs_one_note_and_never_the_run(part, writer, tmp_path):
    BROKEN_WRITERS[part](writer).side_effect = AttributeError("no distutils")
    log = logger(tmp_path)
    log.epoch(1, {"train/loss": 2.0})
    log.epoch(2, {"train/loss": 1.0})
    first, note, second = lines_of(tmp_path)
    assert (first["epoch"], second["epoch"]) == (1, 2) and "no distutils" in note["note"]


@pytest.mark.parametrize(
    "content", ["raise TypeError('Descriptors')", "import google.Descriptors", "# Descriptors"]
)
def test_a_tensorboard_that_breaks_at_its_import_is_found_before_training(content, tmp_path, monkeypatch):
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub/tensorboard.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path / "stub")
    for name in ("tensorboard", "torch.utils.tensorboard"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    log = logger(tmp_path)
    (note,) = lines_of(tmp_path)  # before an epoch is logged
    assert "TensorBoard" in note["note"]
    log.epoch(1, {"train/loss": 2.0})
    assert len(lines_of(tmp_path)) == 2


def test_without_tensorboard_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    logger(tmp_path).epoch(1, {"train/loss": 2.0})
    assert lines_of(tmp_path) == [{"epoch": 1, "train/loss": 2.0}]


def test_what_could_not_be_computed_is_left_out_and_the_file_is_json(tmp_path, capsys):
    log, odd = Logger(tmp_path), {"a/nan": math.nan, "a/inf": math.inf, "a/np": np.float64("nan")}
    log.epoch(0, {"train/loss": 1.5, **odd})
    log.final("results", {"ACC": 0.5, "sizes": [1, 2], **odd})
    log.final("nothing", odd)

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=refuse) for line in lines] == [
        {"epoch": 0, "train/loss": 1.5},
        {"final": "results", "ACC": 0.5, "sizes": [1, 2]},
    ]
    print_metrics("on the console", odd)
    assert not re.search(r"\bnan\b|\binf\b|nothing", printed(capsys))
