"""Reading `log.jsonl`, which every stage writes."""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from utils.storage.files import storage_errors


def read_log(path: Path) -> list[dict[str, Any]]:
    """All entries of the log, in order. A line that a crash cut off, or that is no entry, is skipped."""
    entries = []
    with storage_errors(path, "read"):
        text = path.read_text(encoding="utf-8", errors="replace")
    for line in text.split("\n"):
        with suppress(json.JSONDecodeError, RecursionError):
            if isinstance(entry := json.loads(line), dict):
                entries.append(entry)
    return entries


def read_epochs(path: Path) -> dict[int, dict[str, float]]:
    """The finite numbers of each epoch, epochs rising: {epoch: {"train/loss": 1.2, ...}}.

    A run that was resumed may log an epoch twice: the later entry counts, and none that is after the
    checkpoint from which it went on."""
    epochs: dict[int, dict] = {}
    for entry in read_log(path):
        if type(last := entry.get("resumed_after")) is int:
            epochs = {epoch: values for epoch, values in epochs.items() if epoch <= last}
        if type(entry.get("epoch")) is int:
            epochs[entry.pop("epoch")] = entry
    return {
        epoch: {k: v for k, v in entry.items() if type(v) in (int, float) and math.isfinite(v)}
        for epoch, entry in sorted(epochs.items())
    }


def read_results(path: Path) -> dict[str, Any]:
    """The results at the end of a stage, in one dict."""
    return {name: value for entry in read_log(path) if "final" in entry for name, value in entry.items()}
