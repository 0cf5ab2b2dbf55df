import os
import signal

import pytest

from utils.run import signals
from utils.run.signals import Stopped, answered, stop_if_requested, waiting


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
        stop_if_requested()
        send(number)
        assert signals.requested()
        with pytest.raises(Stopped) as stop:
            stop_if_requested()
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
            assert signals.requested()
    finally:
        os.dup2(stderr, 2)


def test_the_second_signal_in_training_stops_at_once():
    with waiting():
        send(signal.SIGINT)
        with pytest.raises(Stopped) as stop:
            send(signal.SIGTERM)
    assert stop.value.code == 143


def test_a_request_made_in_the_last_moment_of_training_is_not_lost_and_the_next_training_forgets_it():
    with waiting():
        send(signal.SIGTERM)
    with pytest.raises(Stopped):
        stop_if_requested()
    with waiting():
        assert not signals.requested()


def test_a_run_that_ended_within_its_epochs_leaves_no_waiting_to_the_next():
    epochs = waiting()
    epochs.__enter__()  # and never left
    with answered(), pytest.raises(Stopped):
        send(signal.SIGINT)
