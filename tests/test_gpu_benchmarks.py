"""The bookkeeping of benchmarks/gpu.py: which steps are left, how they end, and what is written of them."""

import json

import pytest

from benchmarks import gpu
from benchmarks.gpu import Step, all_steps, left, report, run, run_all
from benchmarks.projection import PASSES, recipe_minutes
from benchmarks.table import Spread, Table, against, ratio, save, shown


def python(name, code="", **kwargs):
    return Step(name, ["-S", "-c", code], **kwargs)


def state_of(folder):
    return json.loads((folder / "state.json").read_text())


# -- table and projection


def test_a_table_is_printed_in_markdown_and_saved_with_every_digit(tmp_path, capsys):
    table = Table("what", "ratio", "ms")
    table.row("one", Spread(2.0, 1.5, 2.51234), 1234.5678)
    table.row("two", None, 7)
    lines = ["| what | ratio | ms |", "| --- | --- | --- |"]
    lines += ["| one | 2.00 (1.50 to 2.51) | 1,235 |", "| two |  | 7 |"]
    assert capsys.readouterr().out.splitlines() == lines
    save(tmp_path / "table.json", table)
    one = {"what": "one", "ratio": [2.0, 1.5, 2.51234], "ms": 1234.5678}
    rows = [one, {"what": "two", "ratio": None, "ms": 7}]
    assert json.loads((tmp_path / "table.json").read_text()) == [rows]


def test_numbers_have_three_digits_ratios_are_taken_round_by_round_and_a_bar_is_met_by_as_much():
    assert [shown(value) for value in (0.123, 12.34, 123.4, 12345.6)] == ["0.12", "12.3", "123", "12,346"]
    assert ratio([10, 20, 90], [5, 5, 10]) == (4, 2, 9)
    assert [against(2.5, value) for value in (2.4, 2.5)] == ["2.5, missed", "2.5, met"]


def test_the_recipe_takes_the_images_of_each_stage_at_its_rate():
    minutes = recipe_minutes({"simclr": 10_000, "features": 50_000, "scan": 20_000, "selflabel": 100_000})
    seconds = {"simclr": 2483.2, "features": 60, "scan": 124.8, "selflabel": 100}
    assert minutes == pytest.approx({stage: value / 60 for stage, value in seconds.items()})


# -- steps


@pytest.mark.parametrize("rehearsal", [False, True])
def test_every_step_has_a_name_of_its_own_and_the_stages_come_in_order(rehearsal, tmp_path):
    names = [step.name for step in all_steps(tmp_path, rehearsal)]
    assert len(set(names)) == len(names)
    assert names.index("recipe-simclr") < names.index("recipe-scan") < names.index("recipe-selflabel")


def test_what_was_cut_off_is_left_and_what_failed_comes_last():
    state = {"a": {"end": "failed"}, "b": {"end": "done"}, "c": {"end": "cut off"}}
    assert [step.name for step in left([Step(name, []) for name in "abcd"], state)] == ["c", "d", "a"]


STOPS_ITSELF = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); time.sleep(60)"
STOPS_NEVER = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        ("", ("done", 0)),
        ("sys.exit(3)", ("failed", 3)),
        (STOPS_ITSELF, ("cut off", 143)),
        (STOPS_NEVER, ("cut off", -9)),
    ],
)
def test_a_step_ends_by_its_exit_code_or_is_cut_off_and_its_log_is_kept(code, ending, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 0.1 if code == STOPS_NEVER else 30)
    begin, seconds = "import signal, sys, time; print('figures', flush=True)", 0.5 if "sleep" in code else 60
    assert run(python("step", f"{begin}; {code}"), tmp_path, seconds) == ending
    assert (tmp_path / "step.log").read_text() == "figures\n"


def test_a_failing_step_does_not_stop_the_others_and_a_second_call_on_another_card_runs_what_is_left(
    tmp_path, capsys
):
    flag = tmp_path / "mended"
    steps = [python("a", f"import os; raise SystemExit(not os.path.exists({str(flag)!r}))"), python("b")]
    run_all(steps, tmp_path, 1, {"device": "one"})
    assert {name: entry["end"] for name, entry in state_of(tmp_path).items()} == {"a": "failed", "b": "done"}
    flag.touch()
    capsys.readouterr()
    run_all(steps, tmp_path, 1, {"device": "other"})
    assert state_of(tmp_path)["a"]["end"] == "done" and "b" not in capsys.readouterr().out
    assert {name: entry["device"] for name, entry in state_of(tmp_path).items()} == {"a": "other", "b": "one"}


def test_a_step_that_needs_longer_is_left_and_the_seconds_of_a_stage_that_goes_on_add_up(tmp_path):
    (tmp_path / "state.json").write_text('{"stage": {"end": "cut off", "exit": 143, "seconds": 100}}')
    run_all([python("long", minutes=2), python("stage", own_json=False)], tmp_path, 1)
    assert list(state_of(tmp_path)) == ["stage"] and 100 < state_of(tmp_path)["stage"]["seconds"] < 160


# -- report


def test_the_report_holds_tables_logs_and_how_each_step_ended_even_one_killed_before_it_printed(
    tmp_path, capsys
):
    stage = Step("recipe-scan", [], own_json=False, logs="runs/scan")
    steps = [Step("augment", []), Step("tests", [], own_json=False), stage, Step("knn", [])]
    (tmp_path / "augment.json").write_text('[[{"set": "simclr", "ratio": [2.0, 1.0, 3.0]}]]')
    (tmp_path / "tests.log").touch()
    (tmp_path / "runs/scan").mkdir(parents=True)
    epochs = [{"epoch": number, "train/images_per_second": 10.0 * number} for number in (1, 2, 3)]
    log = [*epochs, {"final": "SCAN", "ACC": 0.75, "used_clusters": 10}]
    (tmp_path / "runs/scan/log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    state = {step.name: {"end": "done", "exit": 0, "seconds": 90.0} for step in steps[:3]}
    state["tests"] |= {"end": "failed", "exit": -9}
    (tmp_path / "state.json").write_text(json.dumps(state))
    report(steps, tmp_path, rehearsal=True)

    results = json.loads((tmp_path / "results.json").read_text())
    assert results["tables"]["augment"] == [[{"set": "simclr", "ratio": [2.0, 1.0, 3.0]}]]
    assert results["tables"]["recipe-scan"] == [[{"images/s": 20.0, "ACC": 0.75}]]
    assert results["steps"] == state and {"device", "commit", "date", "versions"} <= results.keys()
    printed = capsys.readouterr().out
    assert "| simclr | 2.00 (1.00 to 3.00) |" in printed and "| tests | failed | 1.50 |" in printed
    assert "| recipe-scan | done | 1.50 |" in printed and "| knn | left |  |" in printed


def test_the_report_of_all_stages_projects_the_whole_recipe(tmp_path):
    for stage, images in PASSES.items():  # in a minute each, half of it in bf16
        rates = {"fp32": images / 60, "bf16": images / 30}
        rows = [{"stage, form": f"{stage}, ours, {name}", "images/s": rate} for name, rate in rates.items()]
        (tmp_path / f"stages-{stage}.json").write_text(json.dumps([rows]))
    report([Step(f"stages-{stage}", []) for stage in PASSES], tmp_path, rehearsal=True)
    (projection,) = json.loads((tmp_path / "results.json").read_text())["projection"]
    assert [row["minutes"] for row in projection] == pytest.approx([4, 2])
