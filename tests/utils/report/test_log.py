"""What is read back from log.jsonl."""

import json

import pytest

from utils.errors import RunError
from utils.report.log import read_epochs, read_log, read_results


def log_of(folder, *entries, end=b""):
    path = folder / "log.jsonl"
    path.write_bytes("".join(json.dumps(entry) + "\n" for entry in entries).encode() + end)
    return path


@pytest.mark.parametrize("end", [b"", b'{"epoch": 1, "a": 2.', b'{"note": "\xc3'])
def test_entries_come_in_order_and_a_line_that_a_crash_cut_off_is_skipped(tmp_path, end):
    entries = [{"note": "start"}, {"epoch": 1, "sizes": [3, 4]}]
    assert read_log(log_of(tmp_path, *entries, end=end)) == entries


@pytest.mark.parametrize("line", ["5", '"epoch"', '["epoch"]', '{"epoch": "1", "a": 2}', 9999 * "["])
def test_a_line_that_is_no_entry_of_ours_gives_no_epoch(tmp_path, line):
    path = log_of(tmp_path, {"epoch": 1, "a": 2.0}, end=line.encode())
    assert read_epochs(path) == {1: {"a": 2.0}} and read_results(path) == {}


def test_epochs_rise_and_a_later_entry_replaces_an_earlier_one(tmp_path):
    entries = [{"epoch": 2, "a": 3.0}, {"epoch": 1, "a": 1.0, "b": 2}, {"note": "x"}, {"epoch": 1, "a": 4.0}]
    assert list(read_epochs(log_of(tmp_path, *entries)).items()) == [(1, {"a": 4.0}), (2, {"a": 3.0})]


def test_epochs_after_the_checkpoint_that_a_run_resumed_from_are_none_of_its_own(tmp_path):
    entries = [{"epoch": number, "a": number} for number in (1, 2, 3, 4)]
    entries += [{"note": "resumed", "resumed_after": 2}, {"epoch": 3, "a": 9}]
    assert read_epochs(log_of(tmp_path, *entries)) == {1: {"a": 1}, 2: {"a": 2}, 3: {"a": 9}}


def test_only_finite_numbers_are_metrics(tmp_path):
    end = b'{"epoch": 0, "a": NaN, "b": -Infinity, "c": 1, "d": {}, "e": "x", "f": true, "g": null, "h": [1]}'
    assert read_epochs(log_of(tmp_path, end=end)) == {0: {"c": 1}}


def test_the_results_are_those_of_all_final_entries(tmp_path):
    entries = [{"epoch": 1, "ACC": 0.1}, {"final": "x", "ACC": 0.5}, {"final": "y", "NMI": 0.4}]
    assert read_results(log_of(tmp_path, *entries)) == {"final": "y", "ACC": 0.5, "NMI": 0.4}


def test_a_log_that_cannot_be_read_is_a_failure_of_the_storage(tmp_path):
    with pytest.raises(RunError, match=str(tmp_path)):
        read_log(tmp_path)
