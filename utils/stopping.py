"""SIGINT (Ctrl-C) and SIGTERM: while a run trains they wait until its state is saved, else they end it at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

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
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _answer)


def _answer(number: int, _) -> None:
    global _requested, _answered
    if not _deferring or _requested:
        _answered = Stopped(number)
        raise _answered
    _requested = number
    os.write(2, b"\nstopping as soon as this step is saved; once more stops at once\n")  # print may not be re-entered


@contextmanager
def heeded() -> Iterator[None]:
    """In the block an answer comes through, whatever the code that it interrupted makes of it (argparse, for one)."""
    try:
        yield
    except Exception:
        if _answered:
            raise _answered from None
        raise


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
        raise Stopped(_requested)
