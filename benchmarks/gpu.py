"""Run all that is to be measured on one GPU, step by step, as far as the time of a call goes.

    python benchmarks/gpu.py [FOLDER] [--minutes 9] [--rehearsal]

FOLDER, results/gpu by default, holds of each step `<step>.log`, what it printed, and `<step>.json`, what it measured;
`state.json`, how each step ended and after how many seconds; `results.json`, all of it, with the machine. A call goes
on with the steps that are left: first those that were never begun or were cut off, then those that failed. When the
time is up the running step gets SIGTERM; a stage saves itself and goes on in the next call, a benchmark begins anew.
--rehearsal: everything in small on the CPU, to see that it runs."""

import argparse
import importlib.metadata
import json
import platform
import signal
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.projection import PASSES, recipe_table
from benchmarks.table import Spread, Table
from utils.report.log import read_log

ROOT = Path(__file__).resolve().parents[1]
GRACE = 30  # seconds that a step has to save itself
CUT_OFF = "cut off"
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "faiss-gpu", "faiss-cpu", "pillow")


class Step(NamedTuple):
    """minutes: at least so many have to be left for it to be begun. own_json: it writes its `<step>.json` itself.
    logs: of a stage, the folder with its log."""

    name: str
    command: list[str]
    minutes: float = 0
    own_json: bool = True
    logs: str = ""


def all_steps(folder: Path, rehearsal: bool) -> list[Step]:
    """In their order."""
    small = rehearsal
    device = ["--device", "cpu" if small else "cuda"]

    def benchmark(name: str, script: str, minutes: float, *arguments: str) -> Step:
        command = [f"benchmarks/{script}.py", "--json", str(folder / f"{name}.json"), *arguments]
        return Step(name, command, 0 if small else minutes)

    sizes = ["--rounds", "1", "--images", "32", "--batch", "16"] if small else []
    few, search = (["--rounds", "1"], ["--images", "2000", "--dim", "32"]) if small else ([], [])
    tests = ["-m", "pytest", "-rs", "tests/test_cuda.py", "tests/test_on_device.py"]
    steps = [Step("tests", tests, 0 if small else 3, own_json=False)]
    steps += [benchmark("augment", "augment", 2, *device, *few)]
    steps += [
        benchmark(f"stages-{stage}", "stages", 3, "--stage", stage, *device, *sizes) for stage in PASSES
    ]
    steps += [benchmark("knn", "knn", 2, *device, *few, *search)]
    steps += [benchmark("evaluate", "evaluate", 3, *few)]
    steps += recipe(folder, small)
    big = ["2000", "--dim", "64"] if small else ["1281167", "--dim", "2048"]
    return [*steps, benchmark("knn-imagenet", "knn", 6, *device, "--topk", "50", "--images", *big, *few)]


def recipe(folder: Path, small: bool) -> list[Step]:
    """The three stages on all of Fashion-MNIST, and their evaluation; in small on the digits."""
    recipe = "digits" if small else "fashion_mnist"
    epochs = (
        {"simclr": 2, "scan": 2, "selflabel": 2} if small else {"simclr": 60, "scan": 15, "selflabel": 30}
    )
    places = {"simclr": "pretext", "scan": "scan", "selflabel": "selflabel"}
    common = [f"root_dir={folder / 'runs'}", "run_name=recipe"]
    common += ["device=cpu"] if small else ["device=cuda", "precision=bf16"]
    steps = []
    for stage, place in places.items():
        config = ["--config_exp", f"configs/{place}/{stage}_{recipe}.yml"]
        own = [f"epochs={epochs[stage]}"] + (
            ["confidence_threshold=0.11"] if small and stage == "selflabel" else []
        )
        command = [f"{stage}.py", *config, *common, *own]
        steps.append(Step(f"recipe-{stage}", command, own_json=False, logs=f"runs/recipe/{place}"))
    model = ["--model", str(folder / "runs/recipe/selflabel/model.pth.tar")]
    return [*steps, Step("recipe-eval", ["eval.py", *config, *model, *common], own_json=False)]


def left(steps: list[Step], state: dict) -> list[Step]:
    """The steps that are not done, those that failed at the end."""
    ends = {step.name: state.get(step.name, {}).get("end") for step in steps}
    return sorted(
        (step for step in steps if ends[step.name] != "done"), key=lambda step: ends[step.name] == "failed"
    )


def run(step: Step, folder: Path, seconds: float) -> tuple[str, int]:
    """How the step ended (done, failed, cut off) and its exit code; what it printed is added to its log."""
    with open(folder / f"{step.name}.log", "a") as log:
        process = subprocess.Popen(
            [sys.executable, *step.command],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # else a signal to the group reaches a stage twice, and the second ends it unsaved
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
    """As far as the time goes, with the state on disk after each step. where: noted with each step."""
    end, path = time.monotonic() + 60 * minutes, folder / "state.json"
    state = json.loads(path.read_text()) if path.exists() else {}
    for step in left(steps, state):
        seconds = end - time.monotonic()
        if seconds < max(5, 60 * step.minutes):
            print(f"{step.name}: {seconds / 60:.1f} minutes are too few, left for the next call", flush=True)
            continue
        print(f"{step.name} ...", end=" ", flush=True)
        begin = time.monotonic()
        ending, code = run(step, folder, seconds)
        spent = time.monotonic() - begin
        before = state.get(step.name, {})
        kept = (
            before.get("seconds", 0) if before.get("end") == CUT_OFF and not step.own_json else 0
        )  # a stage goes on
        state[step.name] = {"end": ending, "exit": code, "seconds": kept + spent} | (where or {})
        path.write_text(json.dumps(state, indent=1) + "\n")
        print(
            f"{ending}, {spent:.0f} s" + (f" (exit {code}, see {folder / step.name}.log)" if code else ""),
            flush=True,
        )
        if ending == CUT_OFF:
            return


def machine(rehearsal: bool) -> dict:
    """Where and with what it was measured."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
        )
        commit = commit.stdout.strip() or "unknown"
    except OSError:
        commit = "unknown"
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = "CPU, a rehearsal" if rehearsal else torch.cuda.get_device_name()
    return {
        "device": device,
        "commit": commit,
        "date": str(date.today()),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "versions": versions,
    }


def collect(steps: list[Step], state: dict, folder: Path) -> dict[str, list[list[dict]]]:
    """The tables of each step that has come to its end; a step that writes none is given its file here."""
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
    """Print how far it has come and write results.json."""
    path = folder / "state.json"
    state = json.loads(path.read_text()) if path.exists() else {}
    where, tables = machine(rehearsal), collect(steps, state, folder)
    print(f"\n{where['device']}, commit {where['commit']}, {where['date']}, {where['versions']}")
    stages = [row for stage in PASSES for rows in tables.get(f"stages-{stage}", []) for row in rows]
    projection = [recipe_table(stages).rows] if all(f"stages-{stage}" in tables for stage in PASSES) else []
    content = where | {"steps": state, "projection": projection, "tables": tables}
    (folder / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    for name, found in tables.items():
        for rows in filter(None, found):  # a step that was killed may have printed nothing
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
        f"\n{len(left(steps, state))} of {len(steps)} steps are left; all figures are in {folder / 'results.json'}"
    )


def main(argv: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("folder", nargs="?", type=Path, default=Path("results/gpu"))
    options.add_argument("--minutes", type=float, default=9, help="of this call")
    options.add_argument("--rehearsal", action="store_true", help="in small, on the CPU")
    arguments = options.parse_args(argv)
    if not (arguments.rehearsal or torch.cuda.is_available()):
        sys.exit("PyTorch sees no CUDA device: give --rehearsal to try everything in small on the CPU")
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # time is up, too
    steps = all_steps(folder, arguments.rehearsal)
    try:
        where = machine(arguments.rehearsal)
        run_all(steps, folder, arguments.minutes, {name: where[name] for name in ("device", "commit")})
    finally:
        report(steps, folder, arguments.rehearsal)


if __name__ == "__main__":
    main()
