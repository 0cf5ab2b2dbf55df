import os
import signal

import pytest

from utils.run import signals as stopping
from utils.run.signals import Stopped, deferred, listen, stop_if_requested


@pytest.fixture(autouse=True)
def listening():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    listen()
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


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
    with deferred():
        assert not stopping.requested()
        stop_if_requested()
        send(number)
        assert stopping.requested()
        with pytest.raises(Stopped) as stop:
            stop_if_requested()
    assert stop.value.code == code
    assert "once more stops at once" in capfd.readouterr().err


def test_a_signal_is_heeded_though_nobody_reads_what_it_says():
    """As in `python scan.py 2>&1 | tee log`: the reader dies of the same Ctrl-C."""
    reader, writer = os.pipe()
    os.close(reader)
    stderr = os.dup(2)
    os.dup2(writer, 2)
    try:
        with deferred():
            send(signal.SIGINT)
            assert stopping.requested()
    finally:
        os.dup2(stderr, 2)


def test_the_second_signal_in_training_stops_at_once():
    with deferred():
        send(signal.SIGINT)
        with pytest.raises(Stopped) as stop:
            send(signal.SIGTERM)
    assert stop.value.code == 143


def test_a_request_made_in_the_last_moment_of_training_is_not_lost():
    with deferred():
        send(signal.SIGTERM)
    with pytest.raises(Stopped):
        stop_if_requested()


@pytest.mark.parametrize(
    "stop", [lambda: send(signal.SIGINT), stop_if_requested], ids=["at once", "deferred"]
)
def test_on_the_way_up_another_signal_ends_the_process_without_a_word(stop):
    with deferred():
        send(signal.SIGINT)
        with pytest.raises(Stopped):
            stop()
    assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_after_training_a_signal_stops_at_once_again_and_old_requests_are_forgotten():
    with deferred():
        send(signal.SIGINT)
    with pytest.raises(Stopped):
        send(signal.SIGINT)
    listen()
    with deferred():
        assert not stopping.requested()
