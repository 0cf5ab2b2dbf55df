"""Labels of your own images, from their folders or a table. They are used for evaluation only."""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from utils.console import say_once
from utils.errors import UserError
from utils.storage.tables import plain, read_table

TABLES = (".csv", ".tsv", ".txt")
# As R, pandas, and Excel in several languages write it.
UNKNOWN = ("", "-1", "nan", "<na>", "na", "n/a", "#n/a", "#n/d", "#nv", "null")


def read_labels(folder: Path, files: list[str], rule: str) -> dict[str, str]:
    """The known labels of the files, names within `folder`.

    rule: `none`; `subfolder`, the first folder on the way to a file; or a table with columns `path` (in the
    folder) and `label`, at the path given or else in the folder. Raises UserError for another rule, and
    for a table that is missing, malformed or names none of the files."""
    if rule == "none":
        return {}
    if rule == "subfolder":
        labels = {name: name.split(os.sep)[0] for name in files if os.sep in name}
    elif rule.lower().endswith(TABLES):
        path = Path(rule if os.path.isfile(rule) else folder / rule).absolute()
        table = _read_table(path)
        labels = {name: table.get(_alike(name), "") for name in files}
        if missing := table.keys() - set(map(_alike, files)):
            text = f"{path}: {len(missing)} of {len(table)} rows name no image, such as {min(missing)!r}"
            if len(missing) == len(table):
                place = f"write paths within {folder.absolute()}, such as {files[0]}, in UTF-8"
                raise UserError(f"{text}: {place}")
            say_once(text)
    else:
        raise UserError(f"folder.labels is {rule}: should be none, subfolder or a table such as labels.csv")
    known = {name: labels[name] for name in files if labels.get(name, "") not in ("", "-1")}
    # bytes that are not UTF-8 become escapes, which consoles and figures can show
    shown = {name: os.fsencode(label).decode(errors="backslashreplace") for name, label in known.items()}
    return {name: unicodedata.normalize("NFC", label) for name, label in shown.items()}


def in_order(labels: Iterable[str]) -> list[str]:
    """Whole numbers by size, of however many digits, before words."""

    def rank(label: str) -> tuple:
        digits = label.lstrip("0")
        is_number = label.isascii() and label.isdecimal()
        return (0, len(digits), digits, label) if is_number else (1, 0, "", label)

    return sorted(labels, key=rank)


def _read_table(path: Path) -> dict[str, str]:
    """The label in each row, "" if it is unknown, by `_alike` of the name."""
    labels: dict[str, str] = {}
    for name, label in read_table(path, ("path", "label"), errors="surrogateescape"):
        name, label = _alike(name), plain(label)
        label = "" if label.lower() in UNKNOWN else label
        if labels.setdefault(name, label) != label:
            raise UserError(f"{path}: {name} has two labels, {labels[name]} and {label}: remove one")
    return labels


def _alike(name: str) -> str:
    """The same for all ways to write a name: macOS takes accents apart, Windows writes backslashes."""
    return os.path.normpath(unicodedata.normalize("NFC", name).replace("\\", "/"))
