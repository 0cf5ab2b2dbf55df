"""Hundreds of runs killed or stopped, at named points and at random moments, and started again.

Afterwards no checkpoint may be lost; weights, optimizer, neighbors and log are those of an unbroken run."""

import itertools
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.faults.stage_runs import REST, SCENARIOS, StageRun, Unbroken, result_of

pytestmark = pytest.mark.slow
SEED = 0
STEPS = 3  # of an epoch: 206 images in batches of 64
LAST_LINE, DEFERRED = "--restart", "once more"  # stand in what a stopped stage says at its end, and before it


class Chain:
    """A scenario in a folder of its own: stopped and started again some times, then run to its end.

    kills: what each kill hit. saved: the place of the checkpoint after the last stop. within_epochs: how many
    were amid an epoch. wrong: a checkpoint, how a run ended, or what the last one left."""

    def __init__(self, reference: Unbroken, root: Path, rng: random.Random):
        self.reference, self.root, self.rng = reference, root, rng
        self.stepwise, self.saved, self.within_epochs = rng.random() < 0.75, None, 0
        self.kills, self.wrong = [], []

    def start(self, server, **orders) -> StageRun:
        rest = 0 if self.stepwise else REST
        return self.reference.start(server, self.root, self.stepwise, rest=rest, **orders)

    def note(self, what: str) -> None:
        self.wrong.append(f"{self.root}: {what}")

    def kill_at_points(self, server, points: list[tuple[str, str]]) -> "Chain":
        passed = self.reference.points[self.stepwise]
        for point in sorted(points, key=passed.index):
            number = self.rng.randint(1, max(1, passed.count(point) // len(points)))
            self.note_kill(self.start(server, kill_at=[*point, number]), ", ".join(reversed(point)))
        return self.run_to_the_end(server)

    def kill_at_moments(self, server) -> "Chain":
        for _ in range(self.rng.randint(2, 4)):
            run = self.start(server)
            run.follow("listening" if self.saved else "saved")
            if run.follow(seconds=self.rng.uniform(0, 0.6) * self.reference.seconds[self.stepwise]):
                run.signal(signal.SIGKILL)
            self.note_kill(run, "a random moment")
        return self.run_to_the_end(server)

    def note_kill(self, run: StageRun, where: str) -> None:
        """Wait for the end of a run that was to be killed, and look at what it left."""
        if run.end() == -signal.SIGKILL:
            self.kills.append(where)
        elif run.end() != 0:  # 0: it ended before its kill
            self.note(f"exit code {run.end()}: {run.errors}")
        self.note_checkpoint(run, where)

    def note_checkpoint(self, run: StageRun, where: str) -> None:
        self.saved, fault = self.reference.left_by(run, self.root, self.saved)
        self.within_epochs += self.saved is not None and self.saved[1] > 0
        if fault:
            self.note(f"{where}: {fault}")

    def stop(self, server, impatient: bool) -> "Chain":
        """SIGINT or SIGTERM at a random moment. impatient: once more right after it."""
        run, number = self.start(server), self.rng.choice([signal.SIGINT, signal.SIGTERM])
        run.follow("listening")
        if run.follow(seconds=self.rng.uniform(0, 1) * self.reference.seconds[self.stepwise]):
            run.signal(number)
            if impatient and run.follow("signal") and run.follow(seconds=self.rng.uniform(0, 0.02)):
                run.signal(number)
        if run.end() == 0:  # before the signal
            return self
        self.kills.append(f"{number.name} twice" if impatient else number.name)
        deferred = run.reported("signal")[0]["deferred"]
        said = [next((text for text in (LAST_LINE, DEFERRED) if text in line), line) for line in run.errors]
        right = said == ([DEFERRED] if deferred else []) + [LAST_LINE] and run.end() == 128 + number
        if impatient:  # it may be ended before it has said so; to a shell both codes are the same
            right = {*said} <= {DEFERRED, LAST_LINE} and run.end() in (128 + number, -number)
        if not right:
            self.note(f"exit code {run.end()} after {self.kills}: {run.errors}")
        self.note_checkpoint(run, number.name)
        if deferred and not impatient:
            self.note_step(run)
        return self.run_to_the_end(server)

    def note_step(self, run: StageRun) -> None:
        """A signal in an epoch ends the run after the step that it came in, and this very step is saved."""
        names = [event["at"] for event in run.events]
        later = names[names.index("signal") :].count("step")
        steps = [tuple(event["place"]) for event in run.reported("step")][-1:]
        reached = steps + [(epoch + 1, 0) for epoch, step in steps if step == STEPS]
        if later > 1 or self.saved not in reached:
            self.note(f"{self.saved} is saved, {later} steps after the signal to {steps}")

    def run_to_the_end(self, server) -> "Chain":
        run, folder = self.start(server), self.reference.folder_in(self.root)
        if run.end() != 0:
            self.note(f"the restart ended in {run.end()}: {run.errors}")
            return self
        result = result_of(folder)
        result["files"] = {path.name for path in folder.iterdir()}
        expected = self.reference.result | {"files": self.reference.files}
        if different := [name for name, value in expected.items() if result[name] != value]:
            self.note(f"other {', '.join(different)} than an unbroken run's")
        return self


def run_chains(servers, jobs) -> list[Chain]:
    """Run each job, a function of a server that returns its chain, as many at once as there are servers."""

    def share_of(number):
        return [job(servers[number]) for job in jobs[number :: len(servers)]]

    with ThreadPoolExecutor(len(servers)) as pool:
        return [chain for share in pool.map(share_of, range(len(servers))) for chain in share]


def check(chains: list[Chain], at_least: int) -> None:
    """Nothing was wrong with so many kills, some of them amid an epoch."""
    wrong = [line for chain in chains for line in chain.wrong]
    assert not wrong, "\n".join(wrong)
    assert sum(len(chain.kills) for chain in chains) >= at_least
    assert sum(chain.within_epochs for chain in chains) > 0


def test_killed_at_any_point_of_any_write_a_stage_loses_no_checkpoint_and_ends_the_same(
    servers, unbroken, tmp_path
):
    jobs = []
    for name, reference in unbroken.items():
        rng = random.Random(f"points {name} {SEED}")
        points = sorted(set(reference.points[False]))
        rng.shuffle(points)
        for start in range(0, len(points), 3):
            part = points[start : start + 3]
            chain = Chain(reference, tmp_path / str(len(jobs)), rng)
            jobs.append(partial(chain.kill_at_points, points=part))
    check(run_chains(servers, jobs), at_least=100)


def test_killed_at_any_moment_after_its_first_checkpoint_a_stage_loses_none_and_ends_the_same(
    servers, unbroken, tmp_path
):
    chains = []
    while sum(len(chain.kills) for chain in chains) < 100 and len(chains) < 100:
        rngs = {name: random.Random(f"{len(chains)} {name} {SEED}") for name in SCENARIOS}
        new = [Chain(unbroken[name], tmp_path / f"{len(chains)} {name}", rng) for name, rng in rngs.items()]
        chains += run_chains(servers, [chain.kill_at_moments for chain in new])
    check(chains, at_least=100)


@pytest.mark.parametrize(
    "signals, impatient", [(36, False), (16, True)], ids=["once", "twice in quick succession"]
)
def test_stopped_by_a_signal_a_stage_says_so_in_a_line_and_goes_on_from_the_very_step(
    signals, impatient, servers, unbroken, tmp_path
):
    jobs = []
    for number, name in zip(range(signals), itertools.cycle(SCENARIOS), strict=False):
        rng = random.Random(f"signal {number} {impatient} {SEED}")
        chain = Chain(unbroken[name], tmp_path / str(number), rng)
        jobs.append(partial(chain.stop, impatient=impatient))
    check(run_chains(servers, jobs), at_least=signals * 3 // 4)
