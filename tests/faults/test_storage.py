"""Storage that fails, is damaged or belongs to another run: one line says so, and what was saved is whole."""

import random
import signal
from pathlib import Path

import pytest

from tests.faults.kill_server import place_of
from tests.faults.stage_runs import StageRun, Unbroken, result_of
from utils.report.log import read_log
from utils.run.checkpoints import load_checkpoint

pytestmark = pytest.mark.slow
STAGES = ("simclr", "scan", "selflabel")


def assert_ended_in_one_line(run: StageRun, code: int, *parts) -> None:
    assert (run.end(), len(run.errors)) == (code, 1), "\n".join(run.errors)
    assert run.errors[0].startswith("error: ")
    assert all(str(part) in run.errors[0] for part in parts), run.errors


def assert_goes_on_to_the_same_end(server, reference: Unbroken, root: Path) -> None:
    run = reference.start(server, root, stepwise=False)
    assert run.end() == 0, run.errors
    assert result_of(reference.folder_in(root)) == reference.result


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fault", ["no room for weights", "no room at all"])
def test_on_a_full_disk_a_run_ends_and_goes_on_once_there_is_room(fault, stage, server, unbroken, tmp_path):
    reference = unbroken[stage]
    run = reference.start(server, tmp_path, stepwise=False, fault=[1, fault])
    assert_ended_in_one_line(run, 3, reference.folder_in(tmp_path), "space")
    assert reference.left_by(run, tmp_path) == ((1, 0), "")
    assert not list(tmp_path.rglob("*.part"))
    assert_goes_on_to_the_same_end(server, reference, tmp_path)


@pytest.mark.parametrize("stage", STAGES)
def test_a_folder_deleted_under_a_run_ends_it_in_a_line_that_names_it(stage, server, unbroken, tmp_path):
    reference = unbroken[stage]
    run = reference.start(server, tmp_path, stepwise=False, fault=[1, "deleted"])
    assert_ended_in_one_line(run, 3, reference.folder_in(tmp_path))
    assert_goes_on_to_the_same_end(server, reference, tmp_path)


def empty(content: bytes, _) -> bytes:
    return b""


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(1, len(content))]


def flip(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


@pytest.mark.parametrize(
    "name, change, seed",
    [
        ("checkpoint.pth.tar", empty, 0),
        *(("checkpoint.pth.tar", change, seed) for change in (cut, flip) for seed in range(2)),
        *(("checkpoint.pth.tar.json", change, 0) for change in (empty, cut, flip)),
    ],
)
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    stage, name, change, seed, server, unbroken, tmp_path
):
    reference, folder = unbroken[stage], unbroken[stage].folder_in(tmp_path)
    killed = reference.start(server, tmp_path, stepwise=False, fault=[2, "killed"])
    assert killed.end() == -signal.SIGKILL  # with a checkpoint after epoch 2, and the one before
    damaged = change((folder / name).read_bytes(), random.Random(f"{name} {seed}"))
    (folder / name).write_bytes(damaged)
    if name.endswith(".json"):
        assert place_of(load_checkpoint(folder / "checkpoint.pth.tar")[0]) >= (1, 0)
    assert_goes_on_to_the_same_end(server, reference, tmp_path)
    if name.endswith(".tar"):
        assert (folder / "damaged_checkpoint.pth.tar").read_bytes() == damaged
        warnings = [entry["warning"] for entry in read_log(folder / "log.jsonl") if "warning" in entry]
        assert any(f"{folder / name} ({len(damaged)} bytes)" in warning for warning in warnings)
