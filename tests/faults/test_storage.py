"""Storage that fails, is damaged or belongs to another run: one line says so, and what was saved is whole."""

import os
import random
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from tests.faults.kill_server import NOBODY, place_of
from tests.faults.stage_runs import ROOT, SCENARIOS, StageRun, Unbroken, result_of
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


def test_a_folder_that_is_not_writable_is_named_at_the_start(server, unbroken, root_of_nobody):
    root_of_nobody.chmod(0o555)
    run = unbroken["simclr"].start(server, root_of_nobody, stepwise=False, as_nobody=os.geteuid() == 0)
    assert_ended_in_one_line(run, 3, unbroken["simclr"].folder_in(root_of_nobody), "writable", "root_dir=")
    assert run.reported("step") == [] and list(root_of_nobody.iterdir()) == []


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


def damage(path: Path, change, seed) -> None:
    path.write_bytes(change(path.read_bytes(), random.Random(f"{path.name} {seed}")))


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".lock")}


def killed_after_two_saves(server, reference: Unbroken, root: Path) -> Path:
    """The folder of a run with a checkpoint, after epoch 2, and the one before."""
    assert reference.start(server, root, stepwise=False, fault=[2, "killed"]).end() == -signal.SIGKILL
    return reference.folder_in(root)


DAMAGES = [empty, cut, flip]


@pytest.mark.parametrize("change, seed", [(empty, 0), (cut, 1), (flip, 2), (flip, 3), (flip, 4)])
@pytest.mark.parametrize("stage", STAGES)
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_taken(
    stage, change, seed, server, unbroken, tmp_path
):
    reference = unbroken[stage]
    folder = killed_after_two_saves(server, reference, tmp_path)
    damage(folder / "checkpoint.pth.tar", change, seed)
    damaged = (folder / "checkpoint.pth.tar").read_bytes()
    assert_goes_on_to_the_same_end(server, reference, tmp_path)
    assert (folder / "damaged_checkpoint.pth.tar").read_bytes() == damaged
    log = (folder / "log.jsonl").read_text().splitlines()
    (warning,) = (line for line in log if '{"warning": "/' in line)
    assert f"{folder / 'checkpoint.pth.tar'} ({len(damaged)} bytes)" in warning


@pytest.mark.parametrize("change", DAMAGES)
def test_a_damaged_record_costs_an_epoch_at_most(change, server, unbroken, tmp_path):
    reference = unbroken["simclr"]
    folder = killed_after_two_saves(server, reference, tmp_path)
    damage(folder / "checkpoint.pth.tar.json", change, 0)
    assert place_of(load_checkpoint(folder / "checkpoint.pth.tar")[0]) >= (1, 0)
    assert_goes_on_to_the_same_end(server, reference, tmp_path)


@pytest.mark.parametrize("change", DAMAGES)
@pytest.mark.parametrize("stage", STAGES)
def test_with_both_checkpoints_damaged_a_run_refuses_and_overwrites_nothing(
    stage, change, server, unbroken, tmp_path
):
    reference = unbroken[stage]
    folder = killed_after_two_saves(server, reference, tmp_path)
    for name in ("checkpoint.pth.tar", "previous_checkpoint.pth.tar"):
        damage(folder / name, change, 0)
    before = contents_of(folder)
    run = reference.start(server, tmp_path, stepwise=False)
    assert_ended_in_one_line(run, 3, folder / "checkpoint.pth.tar", "--restart")
    assert contents_of(folder) == before


@pytest.mark.parametrize("stage", STAGES)
def test_a_second_run_in_a_folder_is_refused_while_the_first_is_alive_and_not_after_it_was_killed(
    stage, servers, unbroken, tmp_path
):
    reference = unbroken[stage]
    first = reference.start(servers[0], tmp_path, stepwise=False)
    assert first.follow("saved")
    first.signal(signal.SIGSTOP)
    second = reference.start(servers[1], tmp_path, stepwise=False)
    assert_ended_in_one_line(second, 2, reference.folder_in(tmp_path), first.pid)
    assert reference.left_by(first, tmp_path)[1] == ""
    first.signal(signal.SIGKILL)
    assert first.end() == -signal.SIGKILL
    assert_goes_on_to_the_same_end(servers[1], reference, tmp_path)


@pytest.mark.parametrize("name", SCENARIOS)
def test_for_a_power_cut_every_file_is_flushed_before_its_rename_and_the_folder_after(name, unbroken):
    flushed, renamed = set(), set()
    for point, file in unbroken[name].points[True]:
        if point == "amid the write":
            assert not renamed, "a write begins before the renames of the last one are flushed"
            flushed.discard(file)
        elif point == "after the flush":
            flushed.add(file)
            renamed -= renamed if file == "folder" else set()
        elif point == "before the rename":
            assert file in flushed or file.startswith("previous_")
            renamed.add(file)
    assert {"checkpoint.pth.tar", "checkpoint.pth.tar.json", "model.pth.tar", "finished.json"} <= flushed
    assert not renamed
