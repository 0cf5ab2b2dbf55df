import errno
import fcntl
import os
import signal
import socket

import pytest

from utils.errors import RunError, UserError
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


def take_in_child(folder):
    """Another process that holds the lock until it is killed."""
    held = []
    return in_child(lambda: held.append(locked(folder)) or held[0].__enter__())


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "scan"


def test_another_process_is_refused_and_told_who_holds_the_folder_until_that_one_is_killed(folder):
    child = take_in_child(folder)
    try:
        for _ in range(2):
            with pytest.raises(UserError, match=rf"{child} on {socket.gethostname()}.*run_name=") as error:
                take(folder)
            assert "\n" not in str(error.value)
    finally:
        kill(child)
    assert take(folder) and take(folder)


def test_a_worker_that_outlives_the_run_does_not_hold_the_folder(folder):
    with locked(folder):
        child = in_child(lambda: None)
    try:
        assert take(folder)
    finally:
        kill(child)


# -- machines that a lock does not reach: the file names its holder


def on_another_machine(monkeypatch, name="other"):
    monkeypatch.setattr(socket, "gethostname", lambda: name)


def test_a_run_that_another_machine_breaks_into_is_told_and_touches_nothing_of_the_others(
    folder, monkeypatch, capsys
):
    with locked(folder) as check:
        check()
        file = folder.with_name(".scan.lock")
        mine = file.read_text()
        with monkeypatch.context() as elsewhere:  # where the system's lock says nothing
            on_another_machine(elsewhere)
            elsewhere.setattr(fcntl, "flock", lambda *_: None)
            with locked(folder) as check_of_second:
                check_of_second()
                with pytest.raises(RunError, match="other"):
                    check()
                theirs = file.read_text()
        assert mine in capsys.readouterr().out and theirs != mine
        file.write_text(theirs)
    assert file.read_text() == theirs  # the end of the first does not speak for the second


def test_a_run_that_has_ended_or_was_killed_on_this_machine_is_no_cause_for_doubt(
    folder, monkeypatch, capsys
):
    kill(take_in_child(folder))
    assert take(folder)
    with monkeypatch.context() as elsewhere:
        on_another_machine(elsewhere)
        assert take(folder)  # the run before has said that it ended
    assert capsys.readouterr().out == ""


def test_two_machines_of_one_name_are_told_apart_too(folder, monkeypatch):
    with locked(folder) as check:
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)
        with locked(folder) as check_of_second, pytest.raises(RunError):
            check_of_second()
            check()


def test_a_lock_that_somebody_tidies_up_tells_nothing(folder):
    with locked(folder) as check:
        folder.with_name(".scan.lock").unlink()
        check()


def failing_with(number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    return flock


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_on_a_file_system_without_locks_runs_go_on_and_say_so_and_a_killed_one_leaves_no_lock(
    folder, monkeypatch, capsys, number
):
    monkeypatch.setattr(fcntl, "flock", failing_with(number))
    kill(take_in_child(folder))
    assert take(folder)
    assert str(folder) in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_a_failure_of_the_storage(folder, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", failing_with(errno.EROFS))
    with pytest.raises(RunError, match=str(folder.parent)):
        take(folder)
