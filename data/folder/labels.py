"""Labels of your own images, from their folders or a table. They are used for evaluation only."""

import csv
import io
import os
from pathlib import Path

from utils.console import say_once
from utils.errors import UserError

UNKNOWN = ("", "-1")  # labels in a table that mean none


def read_labels(folder: Path, files: list[str], rule: str) -> dict[str, str]:
    """The known labels of the files, names within `folder`.

    rule: `none`; `subfolder`, the first folder on the way to a file; or a CSV table with columns `path` (in
    the folder) and `label`, at the path given or else in the folder. Raises UserError for another rule, and
    for a table that is missing, malformed or names none of the files."""
    if rule == "none":
        return {}
    if rule == "subfolder":
        return {name: _printable(name.split(os.sep)[0]) for name in files if os.sep in name}
    if not rule.lower().endswith(".csv"):
        raise UserError(f"folder.labels is {rule}: should be none, subfolder or a table such as labels.csv")
    path = Path(rule) if Path(rule).is_file() else folder / rule
    labels = _read_table(path)
    missing = labels.keys() - set(files)
    if len(missing) == len(labels):
        raise UserError(
            f"{path.absolute()} names none of the images in {folder.absolute()}, but such as {min(labels)}: "
            f"write paths within the folder, such as {files[0]}"
        )
    if missing:
        say_once(
            f"{path.absolute()}: {len(missing)} of {len(labels)} rows name no image, such as {min(missing)}"
        )
    known = {name: label for name in files if (label := labels.get(name, "")) not in UNKNOWN}
    return {name: _printable(label) for name, label in known.items()}


def _printable(label: str) -> str:
    """Bytes that are not UTF-8 become escapes, which consoles and figures can show."""
    return os.fsencode(label).decode(errors="backslashreplace")


def _read_table(path: Path) -> dict[str, str]:
    try:
        content = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
        rows = list(csv.DictReader(io.StringIO(content, newline=""), strict=True))
    except (OSError, csv.Error) as error:
        raise UserError(
            f"{path.absolute()} cannot be read as a CSV table ({error}): correct folder.labels"
        ) from error
    header = list(rows[0]) if rows else []
    if not {"path", "label"} <= set(header):
        raise UserError(
            f"{path}: needs the columns path and label and a row for each image, but has {header}"
        )
    labels = {}
    for row in rows:
        name, label = os.path.normpath(row["path"] or ""), (row["label"] or "").strip()
        if labels.setdefault(name, label) != label:
            raise UserError(
                f"{path}: {name} has two labels, {labels[name]} and {label}: remove one of the rows"
            )
    return labels
