"""What is read back from log.jsonl."""

import json

import pytest

from utils.report.log import read_epochs, read_log, read_results


def write_log(folder, *lines):
    path = folder / "log.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_entries_come_in_order_and_what_is_no_entry_is_skipped(tmp_path):
    log = write_log(tmp_path, {"note": "start"}, "7", "", {"epoch": 1, "sizes": [3, 4]})
    assert read_log(log) == [{"note": "start"}, {"epoch": 1, "sizes": [3, 4]}]


@pytest.mark.parametrize("cut_off", [b'{"epoch": 1, "a": 2.', b'{"note": "\xc3'], ids=["number", "letter"])
def test_a_line_that_a_crash_cut_off_is_skipped(tmp_path, cut_off):
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"epoch": 0, "a": 1.0}\n' + cut_off)
    assert read_log(log) == [{"epoch": 0, "a": 1.0}]


def test_epochs_rise_and_a_later_entry_replaces_an_earlier_one(tmp_path):
    lines = [{"epoch": 2, "a": 3.0}, {"epoch": 1, "a": 1.0, "b": 2}, {"note": "x"}, {"epoch": 1, "a": 4.0}]
    assert list(read_epochs(write_log(tmp_path, *lines)).items()) == [(1, {"a": 4.0}), (2, {"a": 3.0})]


def test_only_finite_numbers_are_metrics(tmp_path):
    others = '"a": NaN, "b": -Infinity, "sizes": [1, 2], "d": {}, "e": "x", "f": true, "g": null'
    assert read_epochs(write_log(tmp_path, f'{{"epoch": 0, {others}, "c": 1}}')) == {0: {"c": 1}}


def test_the_results_are_those_of_all_final_entries(tmp_path):
    lines = [{"epoch": 1, "ACC": 0.1}, {"final": "x", "ACC": 0.5}, {"final": "y", "NMI": 0.4}]
    assert read_results(write_log(tmp_path, *lines)) == {"final": "y", "ACC": 0.5, "NMI": 0.4}
