"""Printing to the console, above progress bars."""

from functools import cache

from termcolor import colored
from tqdm import tqdm


def say(text: str) -> None:
    tqdm.write(text)


@cache
def say_once(text: str) -> None:
    """Say a text once in this process."""
    say(text)


def print_metrics(title: str, metrics: dict) -> None:
    """A heading, then a line for each metric."""
    say(colored(title, "green", attrs=["bold"]))
    for name, value in metrics.items():
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
