"""Result tables: printed row by row, and written to a JSON file for other programs."""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from utils.storage.files import write_whole


class Spread(NamedTuple):
    """A value over several rounds."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{shown(self.median)} ({shown(self.lowest)} to {shown(self.highest)})"


class Table:
    """A Markdown table that prints each row as it comes; `rows` keeps them as dicts."""

    def __init__(self, *columns: str):
        self.columns, self.rows = columns, []
        print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)

    def row(self, *values: object) -> None:
        self.rows.append(dict(zip(self.columns, values, strict=True)))
        print(f"| {' | '.join(map(shown, values))} |", flush=True)


def shown(value: object) -> str:
    """A number with three digits; None as an empty text."""
    if not isinstance(value, float):
        return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """How many times as fast, round by round."""
    return spread([long / short for long, short in zip(slow, fast, strict=True)])


def against(bar: float | None, value: float) -> str:
    """The lowest value that is good enough, and whether this one is."""
    return "" if bar is None else f"{bar:g}, {'met' if value >= bar else 'missed'}"


def _new_file(name: str) -> Path:
    """A path in a folder that exists: a mistake shows before the benchmark runs, not after it."""
    if not Path(name).parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {Path(name).parent}")
    return Path(name)


def parser(description: str, device: bool = False) -> argparse.ArgumentParser:
    """A benchmark's arguments: `--json`, and `--device` if it can run on a GPU."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=_new_file, metavar="FILE", help="also write the tables to this file")
    if device:
        parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser


def save(path: Path | None, *tables: Table) -> None:
    """Write the rows of each table as a list of dicts, a spread as median, lowest, highest. The file is
    atomic."""
    if path:
        write_whole({path: (json.dumps([table.rows for table in tables], indent=1) + "\n").encode()})
