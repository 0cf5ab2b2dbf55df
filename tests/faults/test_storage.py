"""Storage that fails, is damaged or belongs to another run: one line says so, and what was saved is whole."""

import os
import random
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from tests.faults.kill_server import NOBODY, place_of
from tests.faults.stage_runs import ROOT, StageRun, Unbroken, result_of
from utils.report.log import read_log
from utils.run.checkpoints import load_checkpoint

pytestmark = pytest.mark.slow
STAGES = ("simclr", "scan", "selflabel")


def assert_ended_in_one_line(run: StageRun, code: int, *parts) -> None:
    assert (run.end(), len(run.errors)) == (code, 1), "\n".join(run.errors)
    assert run.errors[0].startswith("error: ")
    assert all(str(part) in run.errors[0] for part in parts), run.errors


def assert_goes_on_to_the_same_end(server, reference: Unbroken, root: Path, **orders) -> None:
    run = reference.start(server, root, stepwise=False, **orders)
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


@pytest.fixture
def root_of_nobody():
    """A folder that a user without rights owns, where root may write what it likes."""
    if os.geteuid() == 0 and not all(path.stat().st_mode & 0o005 == 0o005 for path in (ROOT, *ROOT.parents)):
        pytest.skip("another user cannot read the configs")
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(root, NOBODY, NOBODY)
    yield root
    for folder in (root, *root.rglob("*/")):
        folder.chmod(0o755)
    shutil.rmtree(root)


def test_a_folder_that_becomes_read_only_ends_the_run_which_goes_on_once_it_is_writable(
    server, unbroken, root_of_nobody
):
    reference, user = unbroken["simclr"], {"as_nobody": os.geteuid() == 0}
    folder = reference.folder_in(root_of_nobody)
    run = reference.start(server, root_of_nobody, stepwise=False, fault=[1, "read-only"], **user)
    assert_ended_in_one_line(run, 3, folder, "writable")
    assert reference.left_by(run, root_of_nobody) == ((1, 0), "")
    again = reference.start(server, root_of_nobody, stepwise=False, **user)
    assert_ended_in_one_line(again, 3, folder, "writable")
    assert again.reported("step") == []
    folder.chmod(0o755)
    assert_goes_on_to_the_same_end(server, reference, root_of_nobody, **user)


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
