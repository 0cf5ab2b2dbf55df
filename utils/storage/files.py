"""Files written whole or not at all; beside those that matter to a later run, a record of what they are."""

import errno
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
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


def record_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def save_recorded(path: Path, content: bytes, facts: Mapping[str, Any], previous: Path | None = None) -> None:
    """Write `content` and, beside it, `<name>.json`: its SHA-256, its size and `facts`, plain values.

    previous: where the file that stood there is kept, with its record. At each moment some record has the SHA-256 of
    each whole file: records go first."""
    record = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), **facts}
    replaced = {}
    if previous and path.exists():
        replaced = {record_path(path): record_path(previous), path: previous}
    write_whole({record_path(path): json.dumps(record, indent=1).encode(), path: content}, replaced)


@contextmanager
def stream_recorded(path: Path, facts: Mapping[str, Any]) -> Iterator[Callable[[bytes], None]]:
    """As `save_recorded`, for content that is too large to hold: the block writes it piece by piece."""
    part, digest, size = part_of(path), hashlib.sha256(), 0

    def write(content: bytes) -> None:
        nonlocal size
        with storage_errors(path):
            file.write(content)
        digest.update(content)
        size += len(content)

    try:
        with storage_errors(path):
            file = open(part, "wb")  # noqa: SIM115 (what the block raises is not of this file)
        try:
            yield write
            with storage_errors(path):
                file.flush()
                os.fsync(file.fileno())
        finally:
            with storage_errors(path):  # closing writes what a full disk had no room for
                file.close()
        record = {"sha256": digest.hexdigest(), "bytes": size, **facts}
        write_whole({record_path(path): json.dumps(record, indent=1).encode()})
        with storage_errors(path):
            os.replace(part, path)
            _flush_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def npy_header(shape: tuple[int, ...], dtype: Any) -> bytes:
    """How a `.npy` file begins that is written piece by piece, in little-endian order."""
    file = io.BytesIO()
    descr = np.dtype(dtype).newbyteorder("<").str
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def read_record(path: Path) -> dict[str, Any] | None:
    """What the record beside `path` says; None where there is no record. Raises RunError for a damaged one."""
    try:
        record = json.loads(record_path(path).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("sha256"), str):
        record = record_path(path)
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


def recall(path: Path, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a file that is whole and was made under these facts; None for any other, which is then made anew:
    that costs no more than time."""
    try:
        record = check_recorded(path)
    except (RunError, OSError):  # damaged, or not there
        return None
    return record if record and facts.items() <= record.items() else None


def check_recorded(path: Path) -> dict[str, Any] | None:
    """The record of `path`, None where there is none. Raises RunError if the file is not the one it was written for:
    PyTorch and NumPy do not notice a flipped bit."""
    record = read_record(path)
    if record and sha256_of(path) != record["sha256"]:
        raise RunError(
            f"{path} ({path.stat().st_size} bytes) is damaged or another file: its SHA-256 is not the one in "
            f"{record_path(path).name}; put the right file back, or make it anew with --restart of its stage (if it is "
            "meant to be another one, remove that record)"
        )
    return record
