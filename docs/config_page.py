"""docs/config.md, made from the key table: `make docs` writes it anew."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils.config.keys import ALL, TABLE, Key
from utils.config.values import wanted

PAGE = Path(__file__).with_name("config.md")
INTRODUCTION = """\
# Every key of a config

`make docs` makes this page from the table in `utils/config_keys.py`: change it there.

**Where a value comes from.** Four sources; a later one wins, key by key: the defaults below, `configs/env.yml` (or the
file of `--config_env`), the experiment's YAML (`--config_exp`), and `key=value` arguments at the end of the command
line. A key that is not below, or a value of another type or out of range, ends the run before it begins.

**How a value is written.** In YAML. A dot in a key is a level of nesting: what is `optimizer_kwargs.lr=0.1` on the
command line is `lr: 0.1` indented below `optimizer_kwargs:` in a file. Numbers may read 512, .5 or 1e-4; a list is
`[0.2, 1.0]`, in quotes on the command line; `~` in a path is the home folder. Text stays as it stands: the `run_name`
007 is not 7.

**What a resume may change.** The same command, given again, goes on where the run stopped. It is refused when a key
differs that would have made another run, those with "no" below; a new run takes its own `run_name`. `epochs` may be
raised to go on. The learning rate of the remaining epochs then follows the new `epochs`: with `scheduler: constant`
the result is that of an unbroken longer run, with `step` too, but with `cosine` it is not.

**Needed by** names the stages (and `eval`, for `eval.py`) that cannot do without the key, or the value of another key
that asks for it. A key with a default need not be written.
"""
COLUMNS = ("key", "type and range", "default", "needed by", "a resume may change it", "meaning")


def config_page() -> str:
    """The page in Markdown."""
    page = INTRODUCTION
    for entry in TABLE:
        page += (
            row(entry)
            if isinstance(entry, Key)
            else f"\n## {entry}\n\n{line(COLUMNS)}{line(['---'] * len(COLUMNS))}"
        )
    return page


def row(key: Key) -> str:
    """What the page says of one key."""
    default = "" if key.default is None else key.default
    if isinstance(default, dict):
        default = ", ".join(f"{setup}: {value}" for setup, value in default.items())
    other, condition, names = key.needed.rpartition("=")
    needed = "all" if names == ALL else ", ".join(names.split())
    if condition:
        needed = f"where `{other}` is {' or '.join(names.split())}"
    resume = "yes" if key.may_change else "no"
    return line([f"`{key.name}`", wanted(key), default, needed, resume, key.meaning])


def line(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    PAGE.write_text(config_page(), encoding="utf-8")
