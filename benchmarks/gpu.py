"""Run every measurement for one GPU, step by step, within the time of a call.

    python benchmarks/gpu.py [FOLDER] [--minutes 9] [--rehearsal]

FOLDER, by default results/gpu, holds for each step `<step>.log`, its output, and `<step>.json`, its results.
`state.json` says how each step ended and after how many seconds. `results.json` has everything, with the
machine.

A call runs the steps that are left: first those that were never started or were cut off, then those that
failed. When the time is up, the running step gets SIGTERM. A stage then saves itself and resumes in the next
call; a benchmark starts again. --rehearsal runs everything on the CPU with small sizes, to see that it
works."""

import argparse
import importlib.metadata
import json
import platform
import signal
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from datetime import date
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.gpu_steps import Step, all_steps
from benchmarks.projection import PASSES, recipe_table
from benchmarks.table import Spread, Table
from utils.report.log import read_log

ROOT = Path(__file__).resolve().parents[1]
GRACE = 30  # seconds that a step has to save itself
CUT_OFF = "cut off"
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "faiss-gpu", "faiss-cpu", "pillow")


def left(steps: list[Step], state: dict) -> list[Step]:
    """The steps that are not done; failed ones come last."""
    ends = {step.name: state.get(step.name, {}).get("end") for step in steps}
    return sorted(
        (step for step in steps if ends[step.name] != "done"), key=lambda step: ends[step.name] == "failed"
    )


def run(step: Step, folder: Path, seconds: float) -> tuple[str, int]:
    """How the step ended (done, failed, cut off) and its exit code. Its output is added to its log."""
    with open(folder / f"{step.name}.log", "a") as log:
        process = subprocess.Popen(
            [sys.executable, *step.command],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # else a stage gets Ctrl-C twice, and the second one stops it unsaved
        )
        try:
            code = process.wait(seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.terminate()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            return (CUT_OFF if process.returncode else "done"), process.returncode
    return ("failed" if code else "done"), code


def run_all(steps: list[Step], folder: Path, minutes: float, where: dict | None = None) -> None:
    """Run steps while time is left; the state is on disk after each. where: written beside each step's
    end."""
    end, path = time.monotonic() + 60 * minutes, folder / "state.json"
    state = json.loads(path.read_text()) if path.exists() else {}
    for step in left(steps, state):
        seconds = end - time.monotonic()
        if seconds < max(5, 60 * step.minutes):
            print(
                f"{step.name}: {seconds / 60:.1f} minutes are too few, it waits for the next call", flush=True
            )
            continue
        print(f"{step.name} ...", end=" ", flush=True)
        begin = time.monotonic()
        ending, code = run(step, folder, seconds)
        spent = time.monotonic() - begin
        before = state.get(step.name, {})
        resumed = before.get("end") == CUT_OFF and not step.own_json  # a stage
        spent_before = before.get("seconds", 0) if resumed else 0
        state[step.name] = {"end": ending, "exit": code, "seconds": spent_before + spent} | (where or {})
        path.write_text(json.dumps(state, indent=1) + "\n")
        print(
            f"{ending}, {spent:.0f} s" + (f" (exit {code}, see {folder / step.name}.log)" if code else ""),
            flush=True,
        )
        if ending == CUT_OFF:
            return


def machine(rehearsal: bool) -> dict:
    """Device, commit, date and versions."""
    commit = ""
    with suppress(OSError):  # no git
        command = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    versions = {}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "device": "CPU, a rehearsal" if rehearsal else torch.cuda.get_device_name(),
        "commit": commit or "unknown",
        "date": str(date.today()),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "versions": versions,
    }


def collect(steps: list[Step], state: dict, folder: Path) -> dict[str, list[list[dict]]]:
    """The tables of each step that has ended. A step that writes no `<step>.json` gets it here."""
    tables = {}
    for step in steps:
        path = folder / f"{step.name}.json"
        if not step.own_json and state.get(step.name, {}).get("end") in ("done", "failed"):
            rows = [results_of(folder / step.logs)] if step.logs else last_lines(folder / f"{step.name}.log")
            path.write_text(json.dumps([rows], indent=1) + "\n")
        if path.exists():
            tables[step.name] = json.loads(path.read_text())
    return tables


def results_of(folder: Path) -> dict[str, float | None]:
    """Images a second in training, and the results at the end of a stage's log."""
    path = folder / "log.jsonl"
    lines = read_log(path) if path.exists() else []
    rates = [line["train/images_per_second"] for line in lines if "train/images_per_second" in line]
    finals = [
        value for line in lines if "final" in line for value in line.items() if isinstance(value[1], float)
    ]
    return {"images/s": statistics.median(rates) if rates else None, **dict(finals)}


def last_lines(log: Path, number: int = 20) -> list[dict[str, str]]:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return [{"last lines": line} for line in lines if line][-number:]


def report(steps: list[Step], folder: Path, rehearsal: bool) -> None:
    """Print the tables and how each step ended; write results.json."""
    path = folder / "state.json"
    state = json.loads(path.read_text()) if path.exists() else {}
    where, tables = machine(rehearsal), collect(steps, state, folder)
    print(f"\n{where['device']}, commit {where['commit']}, {where['date']}, {where['versions']}")
    stages = [row for stage in PASSES for rows in tables.get(f"stages-{stage}", []) for row in rows]
    projection = [recipe_table(stages).rows] if all(f"stages-{stage}" in tables for stage in PASSES) else []
    content = where | {"steps": state, "projection": projection, "tables": tables}
    (folder / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    for name, found in tables.items():
        for rows in filter(None, found):  # a killed step may have printed nothing
            print(f"\n{name}")
            table = Table(*rows[0])
            for row in rows:
                table.row(*(Spread(*value) if isinstance(value, list) else value for value in row.values()))
    print()
    overview = Table("step", "end", "minutes")
    for step in steps:
        ended = state.get(step.name, {})
        overview.row(step.name, ended.get("end", "left"), ended.get("seconds", 0.0) / 60 if ended else None)
    print(
        f"\n{len(left(steps, state))} of {len(steps)} steps are left; all results: {folder / 'results.json'}"
    )


def main(argv: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("folder", nargs="?", type=Path, default=Path("results/gpu"))
    options.add_argument("--minutes", type=float, default=9, help="time for this call")
    options.add_argument("--rehearsal", action="store_true", help="everything on the CPU with small sizes")
    arguments = options.parse_args(argv)
    if not (arguments.rehearsal or torch.cuda.is_available()):
        sys.exit(
            "PyTorch sees no CUDA device: give --rehearsal to try everything on the CPU with small sizes"
        )
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C
    steps = all_steps(folder, arguments.rehearsal)
    try:
        where = machine(arguments.rehearsal)
        run_all(steps, folder, arguments.minutes, {name: where[name] for name in ("device", "commit")})
    finally:
        report(steps, folder, arguments.rehearsal)


if __name__ == "__main__":
    main()
