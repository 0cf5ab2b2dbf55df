import os
import signal
import threading
from contextlib import nullcontext

import pytest

from utils.run import signals
from utils.run.signals import Stopped, answered, stop_if_agreed, waiting


@pytest.fixture(autouse=True)
def answering():
    with answered():
        yield


SIGNALS = pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


def send(number):
    os.kill(os.getpid(), number)


@SIGNALS
def test_outside_of_training_a_signal_stops_at_once_with_the_shells_code(number, code):
    with pytest.raises(Stopped) as stop:
        send(number)
    assert stop.value.code == code
    assert not isinstance(stop.value, Exception)  # nothing on its way may take it for an error


@SIGNALS
def test_in_training_the_first_signal_only_asks_and_says_so(number, code, capfd):
    with waiting():
        stop_if_agreed()
        send(number)
        assert signals.agreed(False)
        with pytest.raises(Stopped) as stop:
            stop_if_agreed()
    assert stop.value.code == code
    assert capfd.readouterr().err


def test_a_signal_is_answered_though_nobody_reads_what_it_says():
    """As in `python scan.py 2>&1 | tee log`: the reader dies of the same Ctrl-C."""
    reader, writer = os.pipe()
    os.close(reader)
    stderr = os.dup(2)
    os.dup2(writer, 2)
    try:
        with waiting():
            send(signal.SIGINT)
            assert signals.agreed(False)
    finally:
        os.dup2(stderr, 2)


def test_the_second_signal_in_training_stops_at_once():
    with waiting():
        send(signal.SIGINT)
        with pytest.raises(Stopped) as stop:
            send(signal.SIGTERM)
    assert stop.value.code == 143


def test_among_several_processes_a_second_signal_stops_no_save(monkeypatch):
    """torchrun and SLURM may send one each, and more may come while the processes end."""
    monkeypatch.setattr(signals.distributed, "_size", 2)
    monkeypatch.setattr(signals.distributed, "_is_alone", True)  # as while the main process saves
    with waiting():
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert signals.agreed(False)
    with pytest.raises(Stopped):
        stop_if_agreed()
    send(signal.SIGTERM)


def test_a_request_made_in_the_last_moment_of_training_is_not_lost_and_the_next_training_forgets_it():
    with waiting():
        send(signal.SIGTERM)
    assert signals.agreed(False)
    with pytest.raises(Stopped):
        stop_if_agreed()
    with waiting():
        assert not signals.agreed(False)


def test_a_run_that_ended_within_its_epochs_leaves_no_waiting_to_the_next():
    epochs = waiting()
    epochs.__enter__()  # and never left
    with answered(), pytest.raises(Stopped):
        send(signal.SIGINT)


HANDLED = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


def handlers():
    return [signal.getsignal(number) for number in HANDLED]


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_the_former_handlers_come_back_however_the_block_ends(error):
    former = handlers()
    with pytest.raises(error) if error else nullcontext(), answered():
        assert handlers() != former or former[0] is signals._answer
        if error:
            raise error
    assert handlers() == former


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has none")
@pytest.mark.parametrize("training", [waiting, nullcontext])
def test_a_closed_terminal_stops_nothing(training):
    with training():
        send(signal.SIGHUP)
        assert not signals.agreed(False)


def test_in_another_thread_than_the_main_one_a_run_works_and_no_handler_changes():
    former, seen = handlers(), []

    def run():
        with answered():
            seen.append(handlers())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [former]


def test_a_handler_of_c_code_which_could_not_come_back_stays(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    monkeypatch.setattr(signal, "signal", None)  # calling it is an error now
    with answered():
        pass
