"""A process that has imported everything and forks a child for each run of a stage: imports take seconds.

It never trains itself: autograd does not work in the fork of a process that did. Orders come in as lines of
JSON, and so events go out: what the child reports, then `ended` with its exit code and its stderr."""

import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import stat
import sys
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data.datasets.digits import read_digits
from losses import ConfidenceBasedCE
from tests.small_runs import SCRIPTS, SMALL, config_of, few_digits, replace_training, without_pictures
from utils.run import checkpoints, command_line, signals
from utils.run.checkpoints import Checkpointer
from utils.storage import files

LATE = ("filelock", "matplotlib", "torch._dynamo", "sklearn.cluster", "sklearn.metrics", "scipy.optimize")
FAULTS = {  # what may happen to a run's folder after a save
    "killed": lambda folder: os.kill(os.getpid(), signal.SIGKILL),
    "deleted": shutil.rmtree,
    "no room for weights": lambda folder: limit_file_size(100_000),  # a log is smaller, a model larger
    "no room at all": lambda folder: limit_file_size(0),
}


def limit_file_size(size: int) -> None:
    import resource  # only here: Windows has none

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def place_of(content: dict) -> tuple[int, int]:
    """Finished epochs and steps of the next one that a checkpoint holds."""
    return content["epoch"], content.get("begun_epoch", {}).get("step", 0)


def digest(content) -> str:
    """Equal for equal tensors and plain values, to the last bit, whatever file or memory they lie in."""

    def plain(value):
        if isinstance(value, torch.Tensor):
            return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
        if isinstance(value, dict):
            return sorted((repr(key), plain(value)) for key, value in value.items())
        return [plain(element) for element in value] if isinstance(value, list | tuple) else repr(value)

    return hashlib.sha256(repr(plain(content)).encode()).hexdigest()


def report_on(descriptor: int, at: str, **details) -> None:
    """An event, a line that is written at once."""
    os.write(descriptor, (json.dumps({"at": at, **details}) + "\n").encode())


class NamedPoints:
    """Reports each point that a write passes. kill_at: [point, file, n]: killed at its n-th pass."""

    def __init__(self, report: Callable[..., None], kill_at: list | None):
        self.report, self.kill_at, self.passed, self.written = report, kill_at, [], None

    def __call__(self, point: str, file: str) -> None:
        self.report("point", point=point, file=file)
        self.passed.append([point, file])
        if self.kill_at == [point, file, self.passed.count([point, file])]:
            os.kill(os.getpid(), signal.SIGKILL)

    def inject(self, monkeypatch) -> None:
        watched = SimpleNamespace(**vars(os))
        watched.fsync, watched.replace = self._flush, self._rename
        monkeypatch.setattr(files, "os", watched)
        monkeypatch.setattr(files, "open", self._open, raising=False)

    def _open(self, path, mode):
        file = open(path, mode)  # noqa: SIM115 (the caller closes it)
        if "w" in mode:
            self.written = re.sub(r"\.[0-9a-f]+\.part$", "", Path(path).name)
            file.write = partial(self._write, file.write, file.flush)
        return file

    def _write(self, write, flush, content: bytes) -> None:
        write(content[: len(content) // 2])
        flush()
        self("amid the write", self.written)
        write(content[len(content) // 2 :])
        self("after the write", self.written)

    def _flush(self, descriptor: int) -> None:
        os.fsync(descriptor)
        self("after the flush", "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else self.written)

    def _rename(self, source: Path, target: Path) -> None:
        self("before the rename", target.name)
        os.replace(source, target)
        self("after the rename", target.name)


def report_progress(monkeypatch, report: Callable[..., None], fault: list | None) -> None:
    """Report each step, save and signal; let the fault [n, its name] happen after the n-th save."""
    save, answered, answer = checkpoints.save_checkpoint, signals.answered, signals._answer
    after_step, saves = Checkpointer.after_step, []

    def saving(path, content, facts):
        save(path, content, facts)
        report("saved", place=place_of(content), digest=digest(content))
        saves.append(path)
        if fault and fault[0] == len(saves):
            FAULTS[fault[1]](path.parent)

    @contextmanager
    def listening():
        with answered():
            report("listening")
            yield

    def answering(number, frame):
        report("signal", deferred=signals._waits)
        answer(number, frame)

    def stepping(self, meter):
        report("step", place=(meter.epoch, meter.step))
        after_step(self, meter)

    monkeypatch.setattr(checkpoints, "save_checkpoint", saving)
    monkeypatch.setattr(signals, "answered", listening)
    monkeypatch.setattr(signals, "_answer", answering)
    monkeypatch.setattr(Checkpointer, "after_step", stepping)


def skip_second_steps(monkeypatch) -> None:
    """Self-labelling finds no confident image in the second step of an epoch, resumed or not."""
    meters, forward = [], ConfidenceBasedCE.forward

    def train(training):
        meters.append(training.meter)
        return training.run_epoch()

    def forward_but_in_the_second(self, weak, strong):
        loss, kept = forward(self, weak, strong)
        return loss, kept * (meters[-1].step != 1)

    replace_training(monkeypatch, "selflabel", train)
    monkeypatch.setattr(ConfidenceBasedCE, "forward", forward_but_in_the_second)


def run_child(orders: dict, report: Callable[..., None]) -> None:
    """Run a stage as its command does."""
    monkeypatch = pytest.MonkeyPatch()  # for good: the process ends
    few_digits(monkeypatch)
    without_pictures(monkeypatch)
    monkeypatch.setattr(checkpoints, "SAVE_SECONDS", orders["rest"])
    if orders["skips"]:
        skip_second_steps(monkeypatch)
    NamedPoints(report, orders["kill_at"]).inject(monkeypatch)
    report_progress(monkeypatch, report, orders["fault"])
    arguments = ["--config_exp", config_of(orders["stage"]), *SMALL, *orders["overrides"]]
    command_line.command(lambda: SCRIPTS[orders["stage"]].main(arguments))


def fork(orders: dict, errors: int) -> int:
    """Start the child; returns its process id. errors: where its stderr goes."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        report = partial(report_on, os.dup(1))
        report("started", pid=os.getpid())
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(errors, 2)
        run_child(orders, report)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    torch.set_num_threads(1)
    read_digits("train")  # this and `LATE` are imports of seconds, for each child
    for name in LATE:
        importlib.import_module(name)
    for line in sys.stdin:
        reading, writing = os.pipe()  # no file, as a file may find no room
        pid = fork(json.loads(line), writing)
        os.close(writing)
        with open(reading, "rb") as errors:
            stderr = errors.read().decode()
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # not reaped yet: its id is nobody else's
        killed = ended.si_code != os.CLD_EXITED
        report_on(1, "ended", code=-ended.si_status if killed else ended.si_status, stderr=stderr)
        sys.stdin.readline()  # the other side has read it, and sends no more signals
        os.waitpid(pid, 0)


if __name__ == "__main__":
    serve()
