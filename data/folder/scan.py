"""Checks the image files in class folders, and reports those that cannot be read."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import escape
from hashlib import sha256
from pathlib import Path

import numpy as np

from data.folder.cache import cache_path, read_cache, reader_threads, state_of, write_cache
from data.image_files import fault_of
from utils.console import say_once
from utils.errors import UserError
from utils.storage.files import storage_errors, write_whole

MAX_NAMED = 3  # files in an error message


@dataclass(frozen=True)
class FolderScan:
    """How folders are scanned. caches: where results are stored. on_error: `stop` or `skip`."""

    caches: Path
    num_workers: int = 0  # threads
    on_error: str = "stop"

    def files_of(self, folder: Path, subfolders: Sequence[str], suffix: str) -> list[dict[str, int]]:
        """The readable image files in each subfolder: sorted names with sizes in bytes, without hidden files.

        Each file is decoded once. The result is cached until a subfolder's modification time changes; a file
        overwritten in its place is not noticed. Raises UserError for a subfolder that is missing or has no
        readable image, and as `leave_out`."""
        if missing := [name for name in subfolders if not (folder / name).is_dir()]:
            raise UserError(
                f"{folder.absolute()} lacks {len(missing)} of {len(subfolders)} folders, {_some(missing)}: "
                "put them there, or name the right place"
            )
        path = cache_path(self.caches, folder, subfolders, suffix)
        _, metadata = read_cache(path) or write_cache(
            path, (0,), np.uint8, lambda _: {"folders": self._check_all(folder, subfolders, suffix)}
        )
        found = metadata["folders"]
        faults = {f"{name}/{file}": fault for name in found for file, fault in found[name]["faults"].items()}
        leave_out(self.caches, folder, faults, self.on_error)
        if empty := [name for name in subfolders if not found[name]["sizes"]]:
            raise UserError(
                f"{len(empty)} of {len(subfolders)} folders in {folder.absolute()} have no "
                f"readable *{suffix} file, {_some(empty)}: put the images there"
            )
        return [found[name]["sizes"] for name in subfolders]

    def _check_all(self, folder: Path, subfolders: Sequence[str], suffix: str) -> dict[str, dict]:
        """Decode the files of all subfolders but those that an earlier cache knows in their present state."""
        known = {}
        for path in self.caches.glob(f"{escape(folder.name[:40])}-*.npy"):
            _, metadata = read_cache(path) or (None, {})
            known |= {entry["state"]: entry for entry in metadata.get("folders", {}).values()}
        states = {name: state_of(folder / name, [os.curdir], suffix) for name in subfolders}
        new = [name for name in subfolders if states[name] not in known]
        with reader_threads(self.num_workers, len(new), f"checking {folder.name}, once") as mapped:
            checked = mapped(lambda name: _check_folder(folder / name, suffix, states[name]), new)
            known |= {entry["state"]: entry for entry in checked}
        return {name: known[states[name]] for name in subfolders}


def _check_folder(folder: Path, suffix: str, state: str) -> dict:
    """Decode the image files of one folder. sizes: of those that can be read. faults: why others cannot."""
    files = sorted(file for file in os.listdir(folder) if file.endswith(suffix) and not file.startswith("."))
    faults = {file: fault for file in files if (fault := fault_of(folder / file))}
    sizes = {file: os.stat(folder / file).st_size for file in files if file not in faults}
    return {"state": state, "sizes": sizes, "faults": faults}


def leave_out(caches: Path, folder: Path, faults: dict[str, str], on_error: str) -> None:
    """Report unreadable files, name -> why: with on_error `stop` as a UserError, else in a text file."""
    if faults and on_error == "stop":
        named = _some([f"{folder / name} ({fault})" for name, fault in faults.items()])
        raise UserError(
            f"{len(faults)} image files cannot be read: {named}: repair or remove them, or set on_error=skip"
        )
    if faults:
        lines = (f"{folder / name}\t{fault}" for name, fault in faults.items())
        path = write_list(caches, folder, "unreadable", lines)
        say_once(f"left out {len(faults)} image files that cannot be read (listed in {path})")


def _some(words: list[str]) -> str:
    more = len(words) - MAX_NAMED
    return ", ".join(words[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def write_list(caches: Path, folder: Path, kind: str, lines: Iterable[str]) -> Path:
    """Write a text file in `caches` that lists files of a folder, names byte by byte. Returns its path."""
    place = sha256(os.fsencode(folder.absolute())).hexdigest()[:12]
    path = caches / f"{folder.absolute().name[:40]}-{place}-{kind}.txt"
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole({path: "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")})
    return path
