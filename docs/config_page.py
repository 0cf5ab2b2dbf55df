"""Writes the tables of docs/config.md, below its introduction, from the key table: `make docs`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils.config.keys import TABLE, Key
from utils.config.values import expected

PAGE = Path(__file__).with_name("config.md")
COLUMNS = ("key", "type and range", "default", "needed by", "a resume may change it", "meaning")


def config_page(introduction: str) -> str:
    """The page in Markdown: the introduction and, under each heading, a table of keys."""
    head = line(COLUMNS) + line(["---"] * len(COLUMNS))
    tables = (f"\n## {heading}\n\n{head}{''.join(map(row, keys))}" for heading, keys in TABLE.items())
    return introduction + "".join(tables)


def row(key: Key) -> str:
    """The table row of one key."""
    default = "" if key.default is None else key.default
    if isinstance(default, dict):
        default = ", ".join(f"{setup}: {value}" for setup, value in default.items())
    other, condition, names = key.needed.rpartition("=")
    needed = f"where `{other}` is {names.replace(' ', ' or ')}" if condition else names.replace(" ", ", ")
    resume = {"all": "yes", "": "no"}.get(key.may_change, f"in {key.may_change.replace(' ', ', ')}")
    return line([f"`{key.name}`", expected(key), default, needed, resume, key.meaning])


def line(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    introduction = PAGE.read_text(encoding="utf-8").partition("\n## ")[0]
    PAGE.write_text(config_page(introduction), encoding="utf-8")
