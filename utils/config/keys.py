"""The table of all config keys, read from keys.yml."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from utils.mypath import DATASET_FOLDERS


class Key(NamedTuple):
    """One row of the table; the head of keys.yml explains its fields."""

    name: str
    takes: list[str] | str
    meaning: str
    needed: str = ""
    default: Any = None
    may_change: str = ""


def read_table() -> dict[str, list[Key]]:
    """{heading: its keys}, in the order of the file."""
    text = Path(__file__).with_name("keys.yml").read_text(encoding="utf-8")
    table = {}
    for heading, rows in yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)).items():
        table[heading] = []
        for name, row in rows.items():
            if row["takes"] == "data set":
                row["takes"] = [*DATASET_FOLDERS, "digits", "folder"]
            names = [name.replace("*", folder) for folder in DATASET_FOLDERS] if "*" in name else [name]
            table[heading] += [Key(each, **row) for each in names]
    return table


TABLE = read_table()
KEYS = {key.name: key for keys in TABLE.values() for key in keys}
GROUPS = {name[:end] for name in KEYS for end, letter in enumerate(name) if letter == "."}
