import errno
import os
import signal
import socket

import filelock
import pytest

from utils.errors import UserError
from utils.run.lock import locked


def in_child(act):
    """Run `act` in another process, which then waits until it is killed; returns its number."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            act()
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


def take(folder):
    with locked(folder):
        return True


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "scan"


def test_another_process_is_refused_and_told_who_holds_the_folder_until_that_one_is_killed(folder):
    kept = []
    child = in_child(lambda: kept.append(locked(folder)) or kept[0].__enter__())
    try:
        for _ in range(2):
            with pytest.raises(
                UserError, match=rf"process {child} on {socket.gethostname()}.*run_name="
            ) as error:
                take(folder)
            assert "\n" not in str(error.value)
    finally:
        kill(child)
    assert take(folder)


def test_the_lock_is_free_after_the_block(folder):
    assert take(folder) and take(folder)


def test_a_worker_that_outlives_the_run_does_not_hold_the_folder(folder):
    with locked(folder):
        child = in_child(lambda: None)
    try:
        assert take(folder)
    finally:
        kill(child)


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK])
def test_on_a_file_system_without_locks_the_run_goes_on_and_says_so(folder, monkeypatch, capsys, number):
    def no_locks(_):
        raise OSError(number, "not here")

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    assert take(folder)
    assert str(folder) in capsys.readouterr().out


def test_another_failure_of_the_lock_is_not_taken_for_a_file_system_without_locks(folder, monkeypatch):
    def denied(_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(filelock.FileLock, "acquire", denied)
    with pytest.raises(PermissionError):
        take(folder)
