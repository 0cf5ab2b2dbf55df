"""Which image files a folder holds, and that they can be read: found out once, then remembered."""

import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tqdm import tqdm

from data.image_files import fault_of
from utils.console import say_once
from utils.device import cpu_count
from utils.errors import RunError, UserError
from utils.storage.files import storage_errors, write_whole

MOST_NAMED = 3  # files in an error
ENTRY = {"changed", "files", "faults"}  # what is remembered of a subfolder


@dataclass(frozen=True)
class FolderScan:
    """How folders are scanned.

    memory: folder of what is remembered. num_workers: files read at once. on_error: `stop` or `skip`."""

    memory: Path
    num_workers: int = 0
    on_error: str = "stop"

    def files_of(self, folder: Path, subfolders: Sequence[str], suffix: str) -> list[dict[str, int]]:
        """The names of the readable image files in each subfolder, sorted, with their sizes in bytes; hidden files are
        left out.

        Every file is decoded once. The answer is remembered as long as a subfolder's time of change stays the same
        (which a file that is added, removed or renamed there changes, and one written over does not).
        Raises UserError for a subfolder that is missing or without images and, with on_error `stop`, for files that
        cannot be read; with `skip` they are left out and listed in a text file in `memory`."""
        memory = self.memory / f"{folder.name}-{sha256(os.fsencode(folder.absolute())).hexdigest()[:12]}.json"
        if missing := [name for name in subfolders if not (folder / name).is_dir()]:
            raise UserError(
                f"{folder.absolute()} lacks {len(missing)} of {len(subfolders)} folders: "
                f"{', '.join(missing[:MOST_NAMED])}{', ...' if len(missing) > MOST_NAMED else ''}; put them there, or "
                "name the right place"
            )
        changed = {
            name: (folder / name).stat().st_mtime_ns for name in subfolders
        }  # a later change counts as one
        known = _recall(memory)
        new = [name for name in subfolders if known.get(name, {}).get("changed") != changed[name]]
        if new:
            entries = {
                name: {"changed": changed[name], "files": _list(folder / name, suffix)} for name in new
            }
            self._check(folder, entries)
            _remember(memory, known := known | entries)
        entries = {name: known[name] for name in subfolders}
        if faults := {
            f"{name}/{file}": why for name in subfolders for file, why in entries[name]["faults"].items()
        }:
            leave_out(folder, faults, self.on_error, memory.with_name(f"{memory.stem}-unreadable.txt"))
        readable = [
            {file: size for file, size in entry["files"].items() if file not in entry["faults"]}
            for entry in entries.values()
        ]
        if empty := [name for name, files in zip(subfolders, readable, strict=True) if not files]:
            raise UserError(
                f"{folder / empty[0]} holds no readable *{suffix} file ({len(empty)} of {len(subfolders)} folders "
                "are like that): put the images there"
            )
        return readable

    def _check(self, folder: Path, entries: dict[str, dict]) -> None:
        """Note the faults of all files of the entries."""
        total = sum(len(entry["files"]) for entry in entries.values())
        bar = tqdm(total=total, desc=f"checking {folder.name}, once", unit="img", disable=None, leave=False)
        pool = ThreadPoolExecutor(
            max(1, min(self.num_workers, cpu_count()))
        )  # Pillow decodes without Python's lock
        try:
            for name, entry in entries.items():
                paths = [os.path.join(folder, name, file) for file in entry["files"]]
                entry["files"] = {file: _size(path) for file, path in zip(entry["files"], paths, strict=True)}
                entry["faults"] = {}
                for file, fault in zip(entry["files"], pool.map(fault_of, paths), strict=True):
                    if fault:
                        entry["faults"][file] = fault
                    bar.update()
        finally:
            pool.shutdown(cancel_futures=True)
            bar.close()


def leave_out(folder: Path, faults: dict[str, str], on_error: str, list_path: Path) -> None:
    """Say which files of a folder cannot be read, file -> why: with on_error `stop` in a UserError, with `skip` in a
    list."""
    some = [f"{folder / name} ({why})" for name, why in list(faults.items())[:MOST_NAMED]]
    more = f" and {len(faults) - len(some)} more" if len(faults) > len(some) else ""
    if on_error == "stop":
        raise UserError(
            f"{len(faults)} image files cannot be read: {', '.join(some)}{more}; put them right, or leave such files "
            "out with on_error=skip"
        )
    write_list(list_path, (f"{folder / name}\t{why}" for name, why in faults.items()))
    say_once(f"left out {len(faults)} image files that cannot be read; they are listed in {list_path}")


def write_list(path: Path, lines: Iterable[str]) -> None:
    """Write lines to a text file, names of files byte by byte as the system has them."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole({path: "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")})


def _list(folder: Path, suffix: str) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.endswith(suffix) and not name.startswith("."))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # it is a fault, too
        return 0


def _recall(memory: Path) -> dict[str, dict]:
    try:
        entries = json.loads(memory.read_bytes())
        return {name: entry for name, entry in entries.items() if entry.keys() == ENTRY}
    except (OSError, ValueError, AttributeError):  # not there yet, or damaged: scan anew
        return {}


def _remember(memory: Path, entries: dict[str, dict]) -> None:
    with suppress(RunError, OSError):  # what cannot be kept is found out again next time
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_whole({memory: json.dumps(entries).encode()})
