"""Labels of your own images, from their folders or a table. They are used for evaluation only."""

import csv
import io
import os
from pathlib import Path

from utils.console import say_once
from utils.errors import UserError


def read_labels(folder: Path, files: list[str], rule: str) -> dict[str, str]:
    """The known labels of the files, names within `folder`.

    rule: `none`; `subfolder`, the first folder on the way to a file; or a CSV table with columns `path` (in
    the folder) and `label`, at the path given or else in the folder. Raises UserError for another rule, and
    for a table that is missing, malformed or names none of the files."""
    if rule == "none":
        return {}
    if rule == "subfolder":
        labels = {name: name.split(os.sep)[0] for name in files if os.sep in name}
    elif rule.lower().endswith(".csv"):
        path = (Path(rule) if Path(rule).is_file() else folder / rule).absolute()
        labels = _read_table(path)
        if missing := labels.keys() - set(files):
            text = f"{path}: {len(missing)} of {len(labels)} rows name no image, such as {min(missing)}"
            if len(missing) == len(labels):
                raise UserError(f"{text}: write paths within {folder.absolute()}, such as {files[0]}")
            say_once(text)
    else:
        raise UserError(f"folder.labels is {rule}: should be none, subfolder or a table such as labels.csv")
    known = {name: labels[name] for name in files if labels.get(name, "") not in ("", "-1")}
    # bytes that are not UTF-8 become escapes, which consoles and figures can show
    return {name: os.fsencode(label).decode(errors="backslashreplace") for name, label in known.items()}


def _read_table(path: Path) -> dict[str, str]:
    try:
        content = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
        rows = list(csv.DictReader(io.StringIO(content, newline=""), strict=True))
    except (OSError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a CSV table ({error}): correct folder.labels") from error
    header = list(rows[0]) if rows else []
    if not {"path", "label"} <= set(header):
        raise UserError(f"{path}: needs columns path and label, with a row per image, but has {header}")
    labels = {}
    for row in rows:
        name, label = os.path.normpath(row["path"] or ""), (row["label"] or "").strip()
        if labels.setdefault(name, label) != label:
            raise UserError(f"{path}: {name} has two labels, {labels[name]} and {label}: remove one")
    return labels
