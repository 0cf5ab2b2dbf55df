"""Files written whole or not at all; beside those that matter to a later run, a record of what they are."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import RunError

REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space, or raise the quota"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "make the folder writable, or name another root_dir=..."
    ),
    **dict.fromkeys(
        (errno.ENOENT, errno.ENOTDIR, errno.EEXIST),
        "the folder is gone or a file stands in its way: put it right",
    ),
}


@contextmanager
def storage_errors(path) -> Iterator[None]:
    """Turn an OSError into a RunError: one line with the path, the reason and what to do."""
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno, "mend the storage")
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; {remedy}, then give the same command again (what was "
            "saved before is whole)"
        ) from error


def part_of(path: Path) -> Path:
    """Where a file is written before it has its name; each process has a place of its own."""
    return path.with_name(f"{path.name}.{os.getpid()}.part")


def write_whole(files: Mapping[Path, bytes], replaced: Mapping[Path, Path] | None = None) -> None:
    """Write the files, of one folder, under temporary names and flush them; then rename them, in this order.

    Killed at any moment, a file is the old one or the new one, whole. replaced: where what stood at a path is moved
    before. Raises RunError where storage fails, with the old files as they were."""
    parts = {path: part_of(path) for path in map(Path, files)}
    with storage_errors(list(parts)[-1]):
        try:
            for part, content in zip(parts.values(), files.values(), strict=True):
                with open(part, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            for path, place in (replaced or {}).items():
                if path.exists():
                    os.replace(path, place)
            for path, part in parts.items():
                os.replace(part, path)
            _flush_folder(next(iter(parts)).parent)
        except BaseException:
            for part in parts.values():
                with suppress(OSError):
                    part.unlink(missing_ok=True)
            raise


def _flush_folder(folder: Path) -> None:
    """So that a rename outlives a power cut; Windows and some network file systems know no such thing."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        with suppress(OSError):
            os.fsync(descriptor)
        os.close(descriptor)


def manifest_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def save_with_manifest(
    path: Path, content: bytes, facts: Mapping[str, Any], previous: Path | None = None
) -> None:
    """Write `content` and, beside it, `<name>.json`: its SHA-256, its size and `facts`, plain values.

    previous: where the file that stood there is kept, with its record. At each moment some record has the SHA-256 of
    each whole file: records go first."""
    record = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), **facts}
    replaced = {}
    if previous and path.exists():
        replaced = {manifest_path(path): manifest_path(previous), path: previous}
    write_whole({manifest_path(path): json.dumps(record, indent=1).encode(), path: content}, replaced)


@contextmanager
def new_array(path: Path, shape: tuple[int, ...], dtype, metadata: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """A `.npy` file with its manifest, as `save_with_manifest`, too large for memory: the block fills the array.

    The array is memory-mapped under a temporary name. Its space is reserved first, so a full disk is an error here and
    not a crash later. `metadata` may still be filled in the block."""
    part = part_of(path)
    try:
        with storage_errors(path):
            array = np.lib.format.open_memmap(part, "w+", dtype, shape)
            if hasattr(os, "posix_fallocate"):
                with open(part, "rb+") as file:
                    os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
        yield array
        with storage_errors(path):
            array.flush()
            manifest = {"sha256": sha256_of(part), "bytes": part.stat().st_size, **metadata}
            write_whole({manifest_path(path): json.dumps(manifest, indent=1).encode()})
            os.replace(part, path)
            _flush_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def read_manifest(path: Path) -> dict[str, Any] | None:
    """What the record beside `path` says; None where there is no record. Raises RunError for a damaged one."""
    try:
        record = json.loads(manifest_path(path).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("sha256"), str):
        record = manifest_path(path)
        raise RunError(
            f"{record} ({record.stat().st_size} bytes) is damaged, it names no SHA-256: make {path} anew"
        )
    return record


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fresh_manifest(path: Path, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a file that is whole and was made under these facts; None for any other, which is then made anew:
    that costs no more than time."""
    try:
        record = verify_manifest(path)
    except (RunError, OSError):  # damaged, or not there
        return None
    return record if record and facts.items() <= record.items() else None


def verify_manifest(path: Path) -> dict[str, Any] | None:
    """The record of `path`, None where there is none. Raises RunError if the file is not the one it was written for:
    PyTorch and NumPy do not notice a flipped bit."""
    record = read_manifest(path)
    if record and sha256_of(path) != record["sha256"]:
        raise RunError(
            f"{path} ({path.stat().st_size} bytes) is damaged or another file: its SHA-256 is not the one in "
            f"{manifest_path(path).name}; put the right file back, or make it anew with --restart of its stage (if it is "
            "meant to be another one, remove that record)"
        )
    return record
