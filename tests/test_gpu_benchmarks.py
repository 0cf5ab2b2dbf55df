"""The bookkeeping of benchmarks/gpu.py: which steps are left, how they end, what is kept of them."""

import json

import pytest

from benchmarks import gpu
from benchmarks.gpu import Step, all_steps, left, report, run, run_all
from benchmarks.projection import PASSES, recipe_minutes, recipe_table
from benchmarks.table import Spread, Table, against, parser, ratio, save, shown


def python(name, code, **kwargs):
    return Step(name, ["-S", "-c", code], **kwargs)


def state_of(folder):
    return json.loads((folder / "state.json").read_text())


# -- table


def test_a_table_is_printed_in_markdown_and_saved_with_every_digit(tmp_path, capsys):
    table = Table("what", "ratio", "ms")
    table.row("one", Spread(2.0, 1.5, 2.51234), 1234.5678)
    table.row("two", None, 7)
    assert capsys.readouterr().out.splitlines() == [
        "| what | ratio | ms |",
        "| --- | --- | --- |",
        "| one | 2.00 (1.50 to 2.51) | 1,235 |",
        "| two |  | 7 |",
    ]
    save(tmp_path / "table.json", table)
    rows = [
        {"what": "one", "ratio": [2.0, 1.5, 2.51234], "ms": 1234.5678},
        {"what": "two", "ratio": None, "ms": 7},
    ]
    assert json.loads((tmp_path / "table.json").read_text()) == [rows]


def test_a_ratio_is_taken_round_by_round():
    assert ratio([10, 20, 90], [5, 5, 10]) == (4, 2, 9)


def test_a_bar_is_met_by_what_is_just_as_much():
    assert [against(2.5, value) for value in (2.4, 2.5)] == ["2.5, missed", "2.5, met"]
    assert against(None, 1.0) == ""


def test_numbers_are_shown_to_three_digits():
    assert [shown(value) for value in (0.123, 12.34, 123.4, 12345.6)] == ["0.12", "12.3", "123", "12,346"]


# -- projection


def test_the_recipe_takes_the_images_of_each_stage_at_its_rate():
    minutes = recipe_minutes({"simclr": 10_000, "features": 50_000, "scan": 20_000, "selflabel": 100_000})
    expected = {
        "simclr": 24_832_000 / 10_000,
        "features": 60,
        "scan": 2_496_000 / 20_000,
        "selflabel": 100,
    }  # seconds
    assert minutes == pytest.approx({stage: seconds / 60 for stage, seconds in expected.items()})


def test_the_projection_reads_the_rates_that_stages_measures(capsys):
    rows = [
        {
            "stage, form": f"{stage}, ours, {precision}",
            "images/s": images / 60 / (2 if precision == "bf16" else 1),
        }
        for stage, images in PASSES.items()
        for precision in ("fp32", "bf16")
    ]
    assert [row["minutes"] for row in recipe_table(rows).rows] == pytest.approx([4, 8])


# -- steps


def test_every_step_has_a_name_of_its_own_on_the_gpu_and_in_small(tmp_path):
    for rehearsal in (False, True):
        names = [step.name for step in all_steps(tmp_path, rehearsal)]
        assert len(set(names)) == len(names)
        assert names.index("recipe-simclr") < names.index("recipe-scan") < names.index("recipe-selflabel")


def test_what_was_cut_off_is_left_and_what_failed_comes_last():
    steps = [Step(name, []) for name in "abcd"]
    state = {"a": {"end": "failed"}, "b": {"end": "done"}, "c": {"end": "cut off"}}
    assert [step.name for step in left(steps, state)] == ["c", "d", "a"]


@pytest.mark.parametrize(
    ("code", "ending"),
    [("print('figures')", ("done", 0)), ("print('figures'); raise SystemExit(3)", ("failed", 3))],
)
def test_a_step_is_done_or_failed_by_its_exit_code_and_its_log_is_kept(tmp_path, code, ending):
    assert run(python("step", code), tmp_path, 60) == ending
    assert (tmp_path / "step.log").read_text() == "figures\n"


def test_when_the_time_is_up_a_step_may_save_itself_and_is_cut_off(tmp_path):
    code = (
        "import signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (open({str(tmp_path / 'saved')!r}, 'w'), sys.exit(143)))\n"
        "time.sleep(60)"
    )
    assert run(python("step", code), tmp_path, 0.5) == ("cut off", 143)
    assert (tmp_path / "saved").exists()


def test_a_step_that_does_not_heed_the_signal_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 0.1)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    assert run(python("step", code), tmp_path, 0.5) == ("cut off", -9)


def test_a_failing_step_does_not_stop_the_others_and_a_second_call_runs_what_is_left(tmp_path, capsys):
    flag = tmp_path / "mended"
    steps = [python("a", f"import os; raise SystemExit(not os.path.exists({str(flag)!r}))"), python("b", "")]
    run_all(steps, tmp_path, 1)
    assert {name: entry["end"] for name, entry in state_of(tmp_path).items()} == {"a": "failed", "b": "done"}
    assert "a ... failed" in capsys.readouterr().out
    flag.touch()
    run_all(steps, tmp_path, 1)
    assert state_of(tmp_path)["a"]["end"] == "done"
    assert "b" not in capsys.readouterr().out


def test_what_a_step_was_measured_on_is_noted_with_it(tmp_path):
    """A later call may be on another card."""
    steps, wheres = [python("a", ""), python("b", "", minutes=2)], [{"device": "one"}, {"device": "other"}]
    for where, minutes in zip(wheres, (1, 3), strict=True):
        run_all(steps, tmp_path, minutes, where)
    assert {name: entry["device"] for name, entry in state_of(tmp_path).items()} == {"a": "one", "b": "other"}


def test_a_json_file_in_a_missing_folder_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(SystemExit):
        parser("").parse_args(["--json", str(tmp_path / "missing" / "file.json")])


def test_a_step_that_does_not_fit_into_the_time_is_left_and_a_shorter_one_runs(tmp_path):
    run_all([python("long", "", minutes=2), python("short", "")], tmp_path, 1)
    assert list(state_of(tmp_path)) == ["short"]


def test_the_seconds_of_a_stage_that_goes_on_add_up(tmp_path):
    (tmp_path / "state.json").write_text('{"stage": {"end": "cut off", "exit": 143, "seconds": 100}}')
    run_all([python("stage", "", own_json=False)], tmp_path, 1)
    assert 100 < state_of(tmp_path)["stage"]["seconds"] < 160


# -- report


def test_the_report_holds_tables_logs_and_how_each_step_ended(tmp_path, capsys):
    steps = [
        Step("augment", []),
        Step("tests", [], own_json=False),
        Step("recipe-scan", [], own_json=False, logs="runs/scan"),
        Step("knn", []),
    ]
    (tmp_path / "augment.json").write_text('[[{"set": "simclr", "ratio": [2.0, 1.0, 3.0]}]]')
    (tmp_path / "tests.log").write_text("..\n2 passed\n")
    (tmp_path / "runs/scan").mkdir(parents=True)
    epochs = [{"epoch": number, "train/images_per_second": 10.0 * number} for number in (1, 2, 3)]
    log = [*epochs, {"final": "SCAN", "ACC": 0.75, "used_clusters": 10}]
    (tmp_path / "runs/scan/log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    state = {step.name: {"end": "done", "exit": 0, "seconds": 90.0} for step in steps[:3]}
    (tmp_path / "state.json").write_text(json.dumps(state))
    report(steps, tmp_path, rehearsal=True)

    results = json.loads((tmp_path / "results.json").read_text())
    assert results["tables"]["augment"] == [[{"set": "simclr", "ratio": [2.0, 1.0, 3.0]}]]
    assert results["tables"]["tests"] == [[{"last lines": ".."}, {"last lines": "2 passed"}]]
    assert results["tables"]["recipe-scan"] == [[{"images/s": 20.0, "ACC": 0.75}]]
    assert json.loads((tmp_path / "recipe-scan.json").read_text()) == results["tables"]["recipe-scan"]
    assert results["steps"] == state and {"device", "commit", "date", "versions"} <= results.keys()
    shown = capsys.readouterr().out
    assert "| simclr | 2.00 (1.00 to 3.00) |" in shown
    assert "| recipe-scan | done | 1.50 |" in shown and "| knn | left |  |" in shown
    assert "1 of 4 steps are left" in shown


def test_the_report_goes_on_after_a_step_that_was_killed_before_it_printed_anything(tmp_path, capsys):
    (tmp_path / "tests.log").touch()
    (tmp_path / "state.json").write_text('{"tests": {"end": "failed", "exit": -9, "seconds": 60}}')
    report([Step("tests", [], own_json=False)], tmp_path, rehearsal=True)
    assert "| tests | failed | 1.00 |" in capsys.readouterr().out


def test_the_report_of_all_stages_projects_the_whole_recipe(tmp_path, capsys):
    steps = [Step(f"stages-{stage}", []) for stage in PASSES]
    for stage, images in PASSES.items():
        rows = [
            {"stage, form": f"{stage}, ours, {number}", "images/s": images / 60}
            for number in ("fp32", "bf16")
        ]
        (tmp_path / f"stages-{stage}.json").write_text(json.dumps([rows]))
    report(steps, tmp_path, rehearsal=True)
    (projection,) = json.loads((tmp_path / "results.json").read_text())["projection"]
    assert [row["minutes"] for row in projection] == pytest.approx([4, 4])


def test_without_a_commit_the_report_says_unknown(monkeypatch):
    def no_git(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(gpu.subprocess, "run", no_git)
    assert gpu.machine(rehearsal=True)["commit"] == "unknown"
