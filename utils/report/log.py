"""Reading `log.jsonl`, which every stage writes."""

import json
import math
from pathlib import Path
from typing import Any


def read_log(path: Path) -> list[dict[str, Any]]:
    """All entries of the log, in order. A line that a crash cut off is skipped."""
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [entry for entry in entries if isinstance(entry, dict)]


def read_epochs(path: Path) -> dict[int, dict[str, float]]:
    """The finite numbers of each epoch, epochs rising: {epoch: {"train/loss": 1.2, ...}}.

    A run that was resumed may log an epoch twice: the later entry counts."""
    epochs = {entry["epoch"]: entry for entry in read_log(path) if isinstance(entry.get("epoch"), int)}
    return {
        epoch: {
            name: value
            for name, value in epochs[epoch].items()
            if name != "epoch" and type(value) in (int, float) and math.isfinite(value)
        }
        for epoch in sorted(epochs)
    }


def read_results(path: Path) -> dict[str, Any]:
    """The results at the end of a stage, in one dict."""
    return {name: value for entry in read_log(path) if "final" in entry for name, value in entry.items()}
