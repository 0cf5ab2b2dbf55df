import os
import signal
import socket

import pytest

from utils.errors import RunError, UserError
from utils.run import lock as module
from utils.run.lock import claim


def in_child(act):
    """Run `act` in another process, which waits until it is killed; returns its number once `act` is done."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            held = act()  # noqa: F841 (the lock lives as long as the process)
            os.write(writer, b".")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b".", "the other process failed"
    return child


def kill(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_folder_is_made_and_locked_and_the_lock_says_by_whom(tmp_path):
    lock = claim(tmp_path / "results" / "scan", restart=False)
    assert lock
    place = tmp_path / "results" / "scan" / ".lock"
    assert place.read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_of_the_holder_before_nothing_is_left(tmp_path):
    (tmp_path / ".lock").write_text("process 1 on " + "x" * 500)
    assert claim(tmp_path, restart=False)
    assert (tmp_path / ".lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_another_process_is_refused_while_the_first_lives_and_not_after_it_was_killed(tmp_path):
    child = in_child(lambda: claim(tmp_path, restart=False))
    try:
        with pytest.raises(
            UserError, match=rf"another run is at work in .*process {child} on .*run_name="
        ) as error:
            claim(tmp_path, restart=True)
        assert "\n" not in str(error.value)
    finally:
        kill(child)
    assert claim(tmp_path, restart=False)


def test_a_run_that_this_process_starts_again_shares_the_lock(tmp_path):
    first = claim(tmp_path, restart=False)
    assert claim(tmp_path, restart=False) is first


def test_the_lock_is_free_when_the_last_run_is_gone(tmp_path):
    lock = claim(tmp_path, restart=False)
    del lock
    child = in_child(lambda: claim(tmp_path, restart=False))  # would end, not wait, if it were refused
    assert (tmp_path / ".lock").read_text().startswith(f"process {child} ")
    kill(child)


def test_what_a_killed_process_left_half_written_is_cleared(tmp_path):
    (tmp_path / "model.pth.tar").write_bytes(b"whole")
    (tmp_path / "model.pth.tar.part").write_bytes(b"ha")
    claim(tmp_path, restart=False)
    assert {path.name for path in tmp_path.iterdir()} == {"model.pth.tar", ".lock"}


def test_a_restart_moves_the_whole_folder_aside_under_a_new_name(tmp_path):
    folder = tmp_path / "scan"
    for number in (1, 2):
        folder.mkdir(exist_ok=True)
        (folder / "model.pth.tar").write_bytes(b"%d" % number)
        claim(folder, restart=True)
        assert {path.name for path in folder.iterdir()} == {".lock"}
    assert (tmp_path / "scan.old-1" / "model.pth.tar").read_bytes() == b"1"
    assert (tmp_path / "scan.old-2" / "model.pth.tar").read_bytes() == b"2"


def test_a_restart_with_nothing_there_moves_nothing(tmp_path):
    for _ in range(2):
        claim(tmp_path / "scan", restart=True)
    assert [path.name for path in tmp_path.iterdir()] == ["scan"]


def test_a_file_in_the_folders_place_is_said_plainly(tmp_path):
    (tmp_path / "results").write_bytes(b"")
    with pytest.raises(RunError, match=r"cannot write .*results/scan.*a file stands in its way"):
        claim(tmp_path / "results" / "scan", restart=False)


@pytest.mark.parametrize("locks", ["no such thing here", "not on this file system"])
def test_where_nothing_can_be_locked_the_run_goes_on(tmp_path, monkeypatch, locks):
    class Unlockable:
        LOCK_EX = LOCK_NB = 0

        @staticmethod
        def flock(*_):
            raise OSError(95, "Operation not supported")

    monkeypatch.setattr(module, "fcntl", None if locks == "no such thing here" else Unlockable)
    assert claim(tmp_path, restart=False)


def test_a_process_that_was_forked_does_not_hold_the_folder_when_its_parent_lets_go(tmp_path):
    lock = claim(tmp_path, restart=False)
    child = in_child(lambda: None)
    try:
        del lock
        claim(tmp_path, restart=False)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
