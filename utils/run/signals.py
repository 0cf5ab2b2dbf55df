"""SIGINT (Ctrl-C), SIGTERM, and SIGUSR1 and SIGUSR2, which SLURM sends before the time limit, stop a run: in
training after the present step is saved, elsewhere at once.

SIGHUP, which a closed terminal sends, is ignored: the run goes on."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from utils import distributed

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")  # Windows has the first two
STOPPING = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))

_waits = False  # whether a first signal waits for the step to be saved
_requested = 0  # the signal that waits, of this process
_agreed = 0  # that of any process, from the end of a step on


class Stopped(KeyboardInterrupt):
    """A signal ends the process, with exit code 128 + its number."""

    def __init__(self, number: int):
        super().__init__(number)
        self.code = 128 + number


def _answer(number: int, _) -> None:
    global _requested
    if distributed.is_shared() and _agreed:
        return  # torchrun and SLURM may both send a signal: it is the one that all are ending with
    is_alone = not distributed.is_shared()
    if not _waits or (_requested and is_alone):
        raise Stopped(number)
    _requested = number
    if distributed.is_main():
        more = b"; once more stops at once" if is_alone else b""
        with suppress(OSError):  # in `| tee` the reader dies of the same Ctrl-C
            os.write(2, b"\nstopping as soon as this step is saved" + more + b"\n")


@contextmanager
def answered() -> Iterator[None]:
    """Answer signals in the block, and put the former handlers back after it. Python allows that in the main
    thread alone: a run in another one is not stopped by signals."""
    global _waits
    _waits = False  # a run that ended by an error may have left its epochs open
    answers = dict.fromkeys(STOPPING, _answer)
    if hasattr(signal, "SIGHUP"):  # Windows has none
        answers[signal.SIGHUP] = signal.SIG_IGN
    if threading.current_thread() is not threading.main_thread():
        answers = {}
    with ExitStack() as former:
        for number, answer in answers.items():
            if signal.getsignal(number) is not None:  # None: C code answers it, and could not be put back
                former.callback(signal.signal, number, signal.signal(number, answer))
        yield


def ignore() -> None:
    """Answer no signal any more, until `answered` is left."""
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def waiting() -> Iterator[None]:
    """In the block the first signal only sets a flag, which `agreed` reads."""
    global _waits, _requested, _agreed
    _waits, _requested, _agreed = True, 0, 0
    try:
        yield
    finally:
        _waits = False


def agreed(wish: bool) -> bool:
    """Whether any process wishes to save, or has got a signal, which counts as one to all."""
    global _agreed
    number = distributed.agree(_requested or int(wish))  # signal 1 is SIGHUP, which stops nothing
    _agreed = number if number > 1 else 0
    return number > 0


def stop_if_agreed() -> None:
    if _agreed:
        raise Stopped(_agreed)
