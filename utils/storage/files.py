"""Files that are written whole or not at all, and manifests: a JSON file beside a file says what is in it."""

import errno
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from utils.console import say_once
from utils.errors import RunError

Metadata = Mapping[str, Any]  # plain values
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
GONE = (errno.ENOENT, errno.ENOTDIR, errno.EEXIST)
REMEDIES = {
    errno.ENAMETOOLONG: "a name in it is too long for the file system: shorten it",
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space, or raise the quota"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more open files: ulimit -n; or lower num_workers"),
    **dict.fromkeys(DENIED, "make it readable for you, and the folders on the way to it"),
}
WRITE_REMEDIES = REMEDIES | {
    **dict.fromkeys(DENIED, "make the folder writable"),
    **dict.fromkeys(GONE, "the folder is gone or a file is there: put it right"),
}


@contextmanager
def storage_errors(path, doing: str = "write", elsewhere: str = "") -> Iterator[None]:
    """Turn an OSError into a RunError: one line with the path, the reason and the remedy.

    elsewhere: how the user gives another place, such as `name another root_dir=...`."""
    try:
        yield
    except OSError as error:
        raise RunError(explain(error, path, doing, elsewhere)) from error


def explain(error: OSError, path, doing: str = "use", elsewhere: str = "") -> str:
    """One line on what failed; the remedy is by what was being done, and why it failed."""
    remedies = WRITE_REMEDIES if doing == "write" else REMEDIES
    remedy = remedies.get(error.errno, "check the file and the disk")
    if elsewhere and error.errno in (*DENIED, errno.ENAMETOOLONG):
        remedy += f", or {elsewhere}"
    return f"cannot {doing} {path}: {error.strerror or error}; {remedy}, then give the same command again"


def writable_folder(folder: Path) -> Path:
    """A folder for caches: `folder`, made if need be; else a temporary one, removed as the process ends."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK):
        return folder
    say_once(f"{folder} cannot be written to: caches are kept in a temporary folder until this command ends")
    return Path(_temporary_folder().name)


@cache
def _temporary_folder() -> TemporaryDirectory:
    return TemporaryDirectory(prefix="caches-")


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """A new file beside `path`, to write and rename; removed at the end if it was not renamed.

    Its name is random and it is created exclusively: no process on any host touches another's."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    with storage_errors(path):
        open(part, "xb").close()
    try:
        yield part
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_whole(files: Mapping[Path, bytes], replaced: Mapping[Path, Path] | None = None) -> None:
    """Write files of one folder under temporary names and flush them; then rename them, in this order.

    After a kill at any moment, each file is the old or the new one, whole. replaced: path -> where its old
    file is moved before. Raises RunError if storage fails; the old files then stay."""
    with ExitStack() as stack:
        parts = {path: stack.enter_context(temporary_file(path)) for path in files}
        stack.enter_context(storage_errors(list(files)[-1]))
        for path, part in parts.items():
            with open(part, "wb") as file:
                file.write(files[path])
                file.flush()
                os.fsync(file.fileno())
        for path, place in (replaced or {}).items():
            if path.exists():
                os.replace(path, place)
        for path, part in parts.items():
            os.replace(part, path)
        _flush_folder(next(iter(files)).parent)


def _flush_folder(folder: Path) -> None:
    """Make renames outlive a power loss, on systems that can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        with suppress(OSError):
            os.fsync(descriptor)
        os.close(descriptor)


def manifest_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _manifest(sha256: str, size: int, metadata: Metadata) -> bytes:
    return json.dumps({"sha256": sha256, "bytes": size, **metadata}, indent=1).encode()


def save_with_manifest(path: Path, content: bytes, metadata: Metadata, previous: Path | None = None) -> None:
    """Write `content` and, beside it, the manifest `<name>.json`: SHA-256, size and `metadata`.

    previous: where the old file and its manifest are moved. Manifests are renamed first, so that at each
    moment some manifest has the SHA-256 of each whole file."""
    manifest = _manifest(hashlib.sha256(content).hexdigest(), len(content), metadata)
    moved = {manifest_path(path): manifest_path(previous), path: previous} if previous else {}
    write_whole({manifest_path(path): manifest, path: content}, moved if path.exists() else {})


@contextmanager
def new_array(path: Path, shape: tuple[int, ...], dtype, metadata: Metadata) -> Iterator[np.ndarray]:
    """A memory-mapped `.npy` file with a manifest: the block fills the array that it gets.

    Its space is reserved first: a full disk is an error here, not a crash later. `metadata` is read when the
    block ends. Raises RunError if storage fails."""
    with temporary_file(path) as part:
        with storage_errors(path):
            array = np.lib.format.open_memmap(part, "w+", dtype, shape)
            if hasattr(os, "posix_fallocate"):
                with open(part, "rb+") as file:
                    os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
        yield array
        with storage_errors(path):
            array.flush()
            write_whole({manifest_path(path): _manifest(sha256_of(part), part.stat().st_size, metadata)})
            os.replace(part, path)
            _flush_folder(path.parent)


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of `path`, None if it has none. Raises RunError if it is damaged."""
    place = manifest_path(path)
    with storage_errors(place, "read"), suppress(FileNotFoundError):
        content = place.read_bytes()
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            manifest = json.loads(content)
            if isinstance(manifest["sha256"], str):
                return manifest
        raise RunError(f"{place} ({len(content)} bytes) is damaged, it has no SHA-256: make {path} anew")


def verify_manifest(path: Path) -> dict[str, Any] | None:
    """`read_manifest`; RunError if the file is not the one it describes. PyTorch overlooks a flipped bit."""
    manifest = read_manifest(path)
    if manifest and sha256_of(path) != manifest["sha256"]:
        remedy = "put the right file there, make it anew (--restart of its stage), or remove the manifest"
        raise RunError(f"{path} ({path.stat().st_size} bytes) differs from its manifest's SHA-256: {remedy}")
    return manifest


_digests: dict[tuple[int, int, int, int], str] = {}  # by device, inode, size and time of change


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, remembered in this process: a run reads each input file once."""
    with storage_errors(path, "read"), open(path, "rb") as file:
        status = os.fstat(file.fileno())
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if key in _digests:
            return _digests[key]
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    if time.time() - status.st_mtime > 2:  # a younger file may change again without a new time of change
        _digests[key] = digest.hexdigest()
    return digest.hexdigest()
