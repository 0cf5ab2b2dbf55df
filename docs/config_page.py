"""Makes docs/config.md from the key table: `make docs`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils.config.keys import ALL, STAGES, TABLE, Key
from utils.config.values import expected

PAGE = Path(__file__).with_name("config.md")
INTRODUCTION = """\
# Every key of a config

Do not edit this page: `make docs` makes it from the table in `utils/config/keys.py`.

**Where a value comes from.** From the table below, `configs/env.yml` (or `--config_env`), the experiment's
YAML (`--config_exp`) or `key=value` arguments of the command line. For each key the last of these wins.

**How to write a value.** A dot in a key is a level of nesting: `optimizer_kwargs.lr=0.1` on the command line
is `lr: 0.1`, indented below `optimizer_kwargs:`, in a file. Numbers may be 512, .5 or 1e-4; a list is
`[0.2, 1.0]`, in quotes on the command line; `~` in a path is your home folder.

**What a resume may change.** The same command, given again, continues the run where it stopped. Keys marked
"yes" may differ then. If you raise `epochs`, the learning rates of the remaining epochs follow the new
number: with `scheduler: constant` or `step` the result is that of one longer run, with `cosine` it is not.

**Needed by** lists the stages that cannot run without the key (`eval` is `eval.py`), or the value of another
key that makes it necessary. A key with a default may be left out.
"""
COLUMNS = ("key", "type and range", "default", "needed by", "a resume may change it", "meaning")


def config_page() -> str:
    """The page in Markdown."""
    head = line(COLUMNS) + line(["---"] * len(COLUMNS))
    rows = (row(entry) if isinstance(entry, Key) else f"\n## {entry}\n\n{head}" for entry in TABLE)
    return INTRODUCTION + "".join(rows)


def row(key: Key) -> str:
    """The table row of one key."""
    default = "" if key.default is None else key.default
    if isinstance(default, dict):
        default = ", ".join(f"{setup}: {value}" for setup, value in default.items())
    other, condition, names = key.needed.rpartition("=")
    needed = "all" if names == ALL else names.replace(" ", ", ")
    needed = f"where `{other}` is {names.replace(' ', ' or ')}" if condition else needed
    resume = {STAGES: "yes", "": "no"}.get(key.may_change, f"in {key.may_change.replace(' ', ', ')}")
    return line([f"`{key.name}`", expected(key), default, needed, resume, key.meaning])


def line(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    PAGE.write_text(config_page(), encoding="utf-8")
