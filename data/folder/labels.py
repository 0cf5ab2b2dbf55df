"""Labels of your own pictures: from the folders that they lie in, or from a table. They judge and never teach."""

import csv
import io
import os
from pathlib import Path

from utils.console import say_once
from utils.errors import UserError

UNKNOWN = ("", "-1")  # words in a table for a label that is not known


def read_labels(folder: Path, files: list[str], rule: str) -> dict[str, str]:
    """The known labels of the files, names within `folder`.

    rule: `none`; `subfolder`, where the first folder on the way to a file is its label; or a table, CSV with columns
    `path` (within the folder) and `label`, looked for as it is named and then in the folder. Raises UserError for
    another rule, and for a table that is missing, malformed or names none of the files."""
    if rule == "none":
        return {}
    if rule == "subfolder":
        return {name: _readable(name.split(os.sep)[0]) for name in files if os.sep in name}
    if not rule.lower().endswith(".csv"):
        raise UserError(f"folder.labels is {rule}: should be none, subfolder or a table such as labels.csv")
    path = Path(rule) if Path(rule).is_file() else folder / rule
    labels = _read_table(path)
    known = {name: label for name, label in labels.items() if label not in UNKNOWN}
    if not (missing := labels.keys() - set(files)) < labels.keys():
        raise UserError(
            f"{path.absolute()} names none of the pictures in {folder.absolute()}, but such as {min(labels)}: write "
            f"paths as they are within the folder, such as {files[0]}"
        )
    if missing:
        say_once(
            f"{path.absolute()}: {len(missing)} of {len(labels)} rows name no picture, such as {min(missing)}"
        )
    return {name: _readable(known[name]) for name in files if name in known}


def in_order(labels: set[str]) -> list[str]:
    """The classes that targets count: numbers by size, then words by the alphabet."""
    return sorted(labels, key=lambda label: (0, int(label), label) if label.isdecimal() else (1, 0, label))


def _readable(label: str) -> str:
    """Bytes that are no UTF-8 written out, for consoles and pictures take none."""
    return os.fsencode(label).decode(errors="backslashreplace")


def _read_table(path: Path) -> dict[str, str]:
    try:
        content = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"cannot read the labels in {path.absolute()}: {error.strerror}") from error
    try:
        rows = list(csv.DictReader(io.StringIO(content, newline=""), strict=True))
    except csv.Error as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from error
    if not rows or not {"path", "label"} <= rows[0].keys():
        header = ", ".join(map(str, rows[0])) if rows else "nothing"
        raise UserError(
            f"{path}: needs the columns path and label and a row for each picture, but has {header[:200]}"
        )
    labels = {}
    for row in rows:
        name, label = os.path.normpath(row["path"] or ""), (row["label"] or "").strip()
        if labels.setdefault(name, label) != label:
            raise UserError(f"{path}: {name} has two labels, {labels[name]} and {label}")
    return labels
