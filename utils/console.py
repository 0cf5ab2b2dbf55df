"""Printing to the console, above progress bars."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from termcolor import colored
from tqdm import tqdm

from utils.arrays import finite


def say(text: str) -> None:
    tqdm.write(text)


@cache
def say_once(text: str) -> None:
    """Say a text once in this process."""
    say(text)


@contextmanager
def warnings_ignored() -> Iterator[None]:
    """Keep libraries' warnings of odd input off the console. Not for use in threads: filters are global."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def print_metrics(title: str, metrics: dict) -> None:
    """A heading, then a line for each metric that could be computed."""
    say(colored(title, "green", attrs=["bold"]))
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
