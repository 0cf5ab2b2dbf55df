"""Runs of the stages in processes of their own, which may be killed, and what an unbroken run ends with."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tests.faults.kill_server import digest, place_of
from utils.errors import RunError
from utils.report.log import read_epochs
from utils.run.checkpoints import load_checkpoint

ROOT = Path(__file__).parents[2]
LONGEST = 60  # seconds that a run may take
SETTINGS = ("epochs=4", "knn_every=2", "knn_backend=torch")
SELFLABEL = ("confidence_threshold=0.15",)
REST = 30  # seconds between checkpoints, more than a run takes: its first and its last epoch are saved


@dataclass(frozen=True)
class Scenario:
    stage: str
    overrides: tuple[str, ...] = ()
    skips: bool = False  # whether some steps have no confident image


SCENARIOS = {
    "simclr": Scenario("pretext"),
    # the third epoch is the best
    "scan": Scenario("scan", ("num_heads=2", "optimizer_kwargs.lr=0.0025", "epochs=6")),
    "selflabel": Scenario("selflabel", SELFLABEL),
    "selflabel, EMA": Scenario("selflabel", (*SELFLABEL, "use_ema=True", "ema_alpha=0.5"), skips=True),
}


class StageRun:
    """A run that has started. `events` holds what it has reported so far; see `kill_server`."""

    def __init__(self, reports: queue.Queue):
        self.reports, self.events = reports, []
        self.pid = self._next(LONGEST)["pid"]

    def _next(self, seconds: float) -> dict:
        self.events.append(self.reports.get(timeout=max(seconds, 0)))
        return self.events[-1]

    def follow(self, until: str | None = None, seconds: float = LONGEST) -> bool:
        """Wait until it reports `until`, ends, or the seconds have passed. Returns whether it still runs."""
        deadline = time.monotonic() + seconds
        while not self.has_ended:
            try:
                if self._next(deadline - time.monotonic())["at"] == until:
                    break
            except queue.Empty:
                break
        return not self.has_ended

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self) -> int:
        """Wait for its end; returns the exit code, or minus the number of the signal that killed it."""
        assert not self.follow(), f"still running after {LONGEST} s"
        return self.events[-1]["code"]

    @property
    def has_ended(self) -> bool:
        return self.events[-1]["at"] == "ended"

    @property
    def errors(self) -> list[str]:
        """The lines on stderr that are not empty."""
        return [line for line in self.events[-1]["stderr"].splitlines() if line]

    def reported(self, at: str) -> list[dict]:
        return [event for event in self.events if event["at"] == at]


class Server:
    """A `kill_server`: one run after the other, each in a fork of a process that has imported everything."""

    def __init__(self):
        command, one_thread = [sys.executable, "-m", "tests.faults.kill_server"], {"OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env=os.environ | one_thread, **pipes)
        self.reports = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.run = None

    def _listen(self) -> None:
        for line in self.process.stdout:
            self.reports.put(json.loads(line))

    def end(self) -> None:
        """No run goes on after this."""
        if self.run and not self.run.has_ended:
            self.run.signal(signal.SIGKILL)
            self.run.end()

    def start(self, scenario: Scenario, *overrides, rest=0, kill_at=None, fault=None):
        """Start a stage; returns its StageRun. rest: the run's REST. kill_at: see `NamedPoints`.

        fault: [n, name], what happens after the n-th save."""
        self.end()
        if self.run:
            self._say("")
        overrides = [*SETTINGS, *scenario.overrides, *overrides]
        orders = {"stage": scenario.stage, "skips": scenario.skips, "overrides": overrides, "rest": rest}
        self._say(json.dumps(orders | {"kill_at": kill_at, "fault": fault}))
        self.run = StageRun(self.reports)
        return self.run

    def _say(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.end()
        self.process.kill()
        self.process.wait()


def result_of(folder: Path) -> dict:
    """What a finished stage has left: everything in it must be that of an unbroken run."""
    checkpoint, fault = load_checkpoint(folder / "checkpoint.pth.tar")
    assert not fault
    neighbors = {path.name: np.load(path) for path in folder.glob("*.npy")}
    epochs = read_epochs(folder / "log.jsonl")
    for metrics in epochs.values():
        metrics.pop("train/images_per_second")  # it depends on the clock
    return {
        "model": digest(torch.load(folder / "model.pth.tar", weights_only=True)),
        "checkpoint": digest(checkpoint),  # weights, optimizer, best_loss and best_loss_head
        "neighbors": {name: (array.shape, array.tobytes()) for name, array in neighbors.items()},
        "epochs": epochs,
        "finished": json.loads((folder / "finished.json").read_text()),
    }


class Unbroken:
    """A scenario run to its end, once with few checkpoints and once saved after each step: the same result.

    result: what both have left. checkpoints: place -> digest. points, seconds: for each of the two, the named
    points that it passed, in order, and its duration."""

    def __init__(self, server: Server, scenario: Scenario, root: Path, overrides: list[str]):
        self.scenario, self.overrides, self.points, self.seconds = scenario, overrides, {}, {}
        results = []
        for stepwise in (True, False):
            run = self.start(server, root / str(stepwise), stepwise, rest=0 if stepwise else REST)
            started = time.monotonic()
            assert run.end() == 0, run.errors
            self.seconds[stepwise] = time.monotonic() - started
            self.points[stepwise] = [(event["point"], event["file"]) for event in run.reported("point")]
            if stepwise:
                self.checkpoints = {tuple(event["place"]): event["digest"] for event in run.reported("saved")}
            self.folder = self.folder_in(root / str(stepwise))
            results.append(result_of(self.folder))
        assert results[0] == results[1]
        self.result, self.files = results[1], {path.name for path in self.folder.iterdir()}

    def folder_in(self, root: Path) -> Path:
        return root / "digits" / self.scenario.stage

    def start(self, server: Server, root: Path, stepwise: bool, **orders) -> StageRun:
        """Start the scenario under `root`; stepwise: with a checkpoint after each step."""
        saving = ["save_minutes=1e-6"] if stepwise else []
        return server.start(self.scenario, *self.overrides, f"root_dir={root}", *saving, **orders)

    def left_by(self, run: StageRun, root: Path, before: tuple[int, int] | None = None):
        """The place of the checkpoint that a stopped run has left, and what is wrong with it.

        "" if it is whole and holds all that was there before and that the run has reported as saved."""
        saved = max((tuple(event["place"]) for event in run.reported("saved")), default=before)
        try:
            content, fault = load_checkpoint(self.folder_in(root) / "checkpoint.pth.tar")
        except RunError as error:
            return None, str(error)
        if not content:
            return None, f"nothing is left, {saved} was saved" if saved else ""
        place = place_of(content)
        if saved and place < saved:
            fault = f"{place} is left, {saved} was saved; {fault}"
        elif digest(content) != self.checkpoints.get(place):
            fault = f"{place} is another one than that of an unbroken run; {fault}"
        return place, fault


def unbroken_runs(server: Server, root: Path) -> dict[str, Unbroken]:
    """Each scenario, the later stages from what the plain ones before them left."""
    runs, overrides = {}, []
    for name, scenario in SCENARIOS.items():
        runs[name] = Unbroken(server, scenario, root / name, list(overrides))
        if scenario.stage != "selflabel":
            overrides.append(f"{scenario.stage}_dir={runs[name].folder}")
    return runs
