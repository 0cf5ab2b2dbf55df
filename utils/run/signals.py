"""SIGINT (Ctrl-C) and SIGTERM: while a run trains they wait until its state is saved, else they end it at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_deferring = False
_requested: int | None = None  # the signal that waits
_answered: "Stopped | None" = None  # what was raised


class Stopped(KeyboardInterrupt):
    """A signal ends the process, with exit code 128 + its number."""

    def __init__(self, number: int):
        super().__init__(number)
        self.code = 128 + number


def listen() -> None:
    """Answer both signals from here on."""
    global _answered
    _answered = None
    for number in SIGNALS:
        signal.signal(number, _answer)


def deafen() -> None:
    """Leave both signals to the system, which ends the process without a word: there is nothing left to save."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _answer(number: int, _) -> None:
    global _requested
    if not _deferring or _requested:
        _stop(number)
    _requested = number
    with suppress(
        OSError
    ):  # the reader of a pipe (| tee) dies of the same Ctrl-C; print may not be re-entered
        os.write(2, b"\nstopping as soon as this step is saved; once more stops at once\n")


def _stop(number: int) -> NoReturn:
    global _answered
    deafen()  # the way up is no place for another one
    _answered = Stopped(number)
    raise _answered


@contextmanager
def listening() -> Iterator[None]:
    """Answer both signals in the block. An answer comes through whatever the code that it interrupted makes of it:
    argparse, for one, makes it an AttributeError."""
    listen()
    try:
        yield
    except Exception:
        if _answered:
            raise _answered from None
        raise
    finally:
        deafen()


@contextmanager
def held_back() -> Iterator[None]:
    """In the block both signals wait in the system, unseen; after it they come. Processes forked in it hold them back
    too, until `let_through`."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows, where nothing is forked
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_through() -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def deferred() -> Iterator[None]:
    """Within the block the first signal only asks: see `requested`."""
    global _deferring, _requested
    _deferring, _requested = True, None
    try:
        yield
    finally:
        _deferring = False


def requested() -> bool:
    return _requested is not None


def stop_if_requested() -> None:
    if _requested:
        _stop(_requested)
