"""What is said on the console alone."""

from functools import cache

from termcolor import colored
from tqdm import tqdm


def say(text: str) -> None:
    """A sentence for the console alone."""
    tqdm.write(text)


@cache
def say_once(text: str) -> None:
    """A sentence for the console alone, that is not said again."""
    say(text)


def print_metrics(title: str, metrics: dict) -> None:
    """A heading and a line for each metric, on the console."""
    tqdm.write(colored(title, "green", attrs=["bold"]))
    for name, value in metrics.items():
        tqdm.write(f"    {name:<28} {readable_number(value)}")


def readable_number(value) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 100 else f"{value:.0f}"
    if isinstance(value, list):
        shown = [
            ">".join(map(str, item)) if isinstance(item, (tuple, list)) else str(item) for item in value[:20]
        ]
        return "  ".join(shown) + ("  ..." if len(value) > 20 else "")
    return str(value)
