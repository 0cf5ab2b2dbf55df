"""The checkpoint of a run and the one before it: at any moment, one of the two is whole."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import RunError, UserError
from utils.storage.files import read_manifest, save_with_manifest, sha256_of
from utils.storage.torch_files import read_tensors, to_bytes


def previous_of(path: Path) -> Path:
    return path.with_name("previous_" + path.name)


def has_checkpoint(path: Path) -> bool:
    return path.exists() or previous_of(path).exists()


def save_checkpoint(path: Path, content: dict[str, Any], facts: Mapping[str, Any]) -> None:
    """Write tensors and plain Python types with a record of `facts`; the checkpoint before is kept beside it."""
    save_with_manifest(path, to_bytes(content), facts, previous=previous_of(path))


def load_checkpoint(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The content of the newest whole checkpoint, None where there is none, and what is wrong with a newer one.

    A damaged checkpoint is moved out of the way (`damaged_...`) when the previous one is whole. Raises RunError when
    neither is."""
    records, faults = set(), []
    for file in (
        path,
        previous_of(path),
    ):  # a kill between two renames leaves a file its record under the other name
        try:
            record = read_manifest(file)
            records |= {record["sha256"]} if record else set()
        except RunError as error:
            faults.append(str(error))
    for file in filter(Path.exists, (path, previous_of(path))):
        try:
            if (records or faults) and sha256_of(file) not in records:
                raise RunError(f"{file} ({file.stat().st_size} bytes) is damaged: no record has its SHA-256")
            content = read_tensors(file)
        except (UserError, RunError, OSError) as error:
            faults.append(str(error) if file.name in str(error) else f"{file}: {error}")
            continue
        if file == path:
            return content, ""
        if path.exists():
            os.replace(
                path, path.with_name("damaged_" + path.name)
            )  # or the next save would keep it as the whole one
        return content, "; ".join(faults)
    if has_checkpoint(path):
        raise RunError(
            f"{'; '.join(faults)}; no whole checkpoint is left: put a copy back, or begin anew with --restart"
        )
    return None, ""


def place_of(finished: int, begun: dict | None) -> str:
    """How far a checkpoint is, in words. begun: the state of an epoch that was stopped in its middle."""
    return f"after epoch {finished}" + (f" and {begun['step']} steps of the next" if begun else "")
