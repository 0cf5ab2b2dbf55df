"""Hundreds of runs killed or stopped, at named points and at random moments, and started again.

Afterwards no checkpoint may be lost; weights, optimizer, neighbors and log are those of an unbroken run."""

import itertools
import random
import signal
from collections.abc import Iterator
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
    were amid an epoch. lost, different, odd: what was wrong with a checkpoint, with what the last run left,
    and with how a run ended."""

    def __init__(self, name: str, reference: Unbroken, root: Path, rng: random.Random):
        self.name, self.reference, self.root, self.rng = name, reference, root, rng
        self.stepwise, self.saved = rng.random() < 0.75, None
        self.within_epochs = 0
        self.kills, self.lost, self.different, self.odd = [], [], [], []

    def start(self, server, **orders) -> StageRun:
        rest = 0 if self.stepwise else REST
        return self.reference.start(server, self.root, self.stepwise, rest=rest, **orders)

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
            self.odd.append(f"{self.root}: exit code {run.end()}: {run.errors}")
        self.note_checkpoint(run, where)

    def note_checkpoint(self, run: StageRun, where: str) -> None:
        self.saved, fault = self.reference.left_by(run, self.root, self.saved)
        self.within_epochs += self.saved is not None and self.saved[1] > 0
        if fault:
            self.lost.append(f"{self.root}, {where}: {fault}")

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
        said = [
            LAST_LINE if LAST_LINE in line else DEFERRED if DEFERRED in line else line for line in run.errors
        ]
        right = said == ([DEFERRED] if deferred else []) + [LAST_LINE] and run.end() == 128 + number
        if impatient:  # it may be ended before it has said so; to a shell both codes are the same
            right = {*said} <= {DEFERRED, LAST_LINE} and run.end() in (128 + number, -number)
        if not right:
            self.odd.append(f"{self.root}: exit code {run.end()} after {self.kills}: {run.errors}")
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
            self.odd.append(f"{self.root}: {self.saved} is saved, {later} steps after the signal to {steps}")

    def run_to_the_end(self, server) -> "Chain":
        run, folder = self.start(server), self.reference.folder_in(self.root)
        if run.end() != 0:
            self.odd.append(f"{self.root}: the restart ended in {run.end()}: {run.errors}")
            return self
        result = result_of(folder)
        different = [name for name, value in self.reference.result.items() if result[name] != value]
        if left := {path.name for path in folder.iterdir()} ^ self.reference.files:
            different.append(f"files {sorted(left)}")
        if different:
            self.different.append(f"{self.root}: {', '.join(different)}")
        return self


def run_chains(servers, jobs) -> list[Chain]:
    """Run each job, a function of a server that returns its chain, as many at once as there are servers."""
    idle = list(servers)

    def run(job):
        server = idle.pop()
        try:
            return job(server)
        finally:
            idle.append(server)

    with ThreadPoolExecutor(len(idle)) as pool:
        return list(pool.map(run, jobs))


def check(chains: list[Chain], at_least: int) -> None:
    """Nothing was wrong with so many kills, some of them amid an epoch."""
    for wrong in ("lost", "different", "odd"):
        lines = [line for chain in chains for line in getattr(chain, wrong)]
        assert not lines, "\n".join([wrong, *lines])
    assert sum(len(chain.kills) for chain in chains) >= at_least
    assert sum(chain.within_epochs for chain in chains) > 0


def in_parts(rng: random.Random, elements: list) -> Iterator[list]:
    """Two to four at a time."""
    while elements:
        number = rng.randint(2, 4)
        yield elements[:number]
        elements = elements[number:]


def test_killed_at_any_point_of_any_write_a_stage_loses_no_checkpoint_and_ends_the_same(
    servers, unbroken, tmp_path
):
    jobs = []
    for name, reference in unbroken.items():
        rng = random.Random(f"points {name} {SEED}")
        points = sorted(set(reference.points[False]))
        for part in in_parts(rng, rng.sample(points, k=len(points))):
            chain = Chain(name, reference, tmp_path / str(len(jobs)), rng)
            jobs.append(partial(chain.kill_at_points, points=part))
    chains = run_chains(servers, jobs)
    check(chains, at_least=100)


def test_killed_at_any_moment_after_its_first_checkpoint_a_stage_loses_none_and_ends_the_same(
    servers, unbroken, tmp_path
):
    chains = []
    while sum(len(chain.kills) for chain in chains) < 100 and len(chains) < 100:
        roots = {name: tmp_path / f"{len(chains)}-{name}" for name in SCENARIOS}
        rngs = {name: random.Random(f"{root.name} {SEED}") for name, root in roots.items()}
        new = [Chain(name, unbroken[name], root, rngs[name]) for name, root in roots.items()]
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
        chain = Chain(name, unbroken[name], tmp_path / str(number), rng)
        jobs.append(partial(chain.stop, impatient=impatient))
    chains = run_chains(servers, jobs)
    check(chains, at_least=signals * 3 // 4)
