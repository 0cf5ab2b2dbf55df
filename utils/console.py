"""Printing to the console, above progress bars.

The log file is the record of a run. A console that is closed, gone or full costs what it would show, never
the run."""

import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from termcolor import colored
from tqdm import tqdm

from utils.distributed import is_main, main_only

UNHEARD = (OSError, ValueError)  # what printing raises then; ValueError is Python's for a closed stream


@main_only
def say(text: str) -> None:
    """Print a text at once, in the main process. What the console cannot show is escaped: a file name may be
    no text."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with suppress(*UNHEARD), tqdm.external_write_mode():
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def styled(text: str, *color, **attributes) -> str:
    """The text in a color, where the console shows colors."""
    with suppress(*UNHEARD):
        return colored(text, *color, **attributes)
    return text


@cache
def say_once(text: str) -> None:
    """Say a text once in this process."""
    say(text)


def in_terminal() -> bool:
    """Whether there is a terminal that shows progress."""
    with suppress(AttributeError, *UNHEARD):
        return sys.stderr.isatty()
    return False


class Bar(tqdm):
    """A bar without tqdm's monitor thread: worker processes are forked."""

    monitor_interval = 0


def progress(*arguments, **options) -> Bar:
    """A progress bar, where there is a terminal."""
    return Bar(*arguments, **options, leave=False, disable=not (is_main() and in_terminal()))


@contextmanager
def any_console() -> Iterator[None]:
    """In the block no console is needed. What could not be printed by its end is dropped: Python would try
    again at exit, and end with code 120."""
    while (nowhere := os.open(os.devnull, os.O_RDWR)) < 3:
        pass  # a closed stream's number would go to the next file, and into it what C code prints
    try:
        yield
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            try:
                stream.flush()
            except UNHEARD:
                with suppress(*UNHEARD):
                    os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def warnings_ignored() -> Iterator[None]:
    """Keep libraries' warnings of odd input off the console. Not for use in threads: filters are global."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def finite(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics without those that could not be computed: NaN, which is no JSON, or infinite."""
    return {k: value for k, value in metrics.items() if not isinstance(value, float) or math.isfinite(value)}


def print_metrics(title: str, metrics: dict) -> None:
    """A heading, then a line for each metric that could be computed."""
    say(styled(title, "green", attrs=["bold"]))
    for name, value in finite(metrics).items():
        say(f"    {name:<28} {readable_number(value)}")


def readable_number(value) -> str:
    """A number, or a list of numbers or pairs, of which the first 20 are shown."""
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 100 else f"{value:.0f}"
    if isinstance(value, list):
        is_pair = value and isinstance(value[0], (tuple, list))
        shown = [">".join(map(str, item)) if is_pair else str(item) for item in value[:20]]
        return "  ".join(shown) + ("  ..." if len(value) > 20 else "")
    return str(value)
