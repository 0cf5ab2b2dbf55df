"""The pictures of a folder, each read once: what tells them apart, which cannot be read, their pixels; remembered."""

import glob
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.image_files import read_square, reason_of
from utils.device import cpu_count, free_memory
from utils.storage.files import fresh_manifest, new_array, storage_errors

DAY = 24 * 3600  # seconds
CHUNK = 256  # pictures that wait to be written
SHARE = 2  # images stay in memory if they take at most one part in so many of what is free


@dataclass(frozen=True)
class Decoded:
    """digests: bytes (N,), the SHA-256 of each file in hexadecimal. faults: file -> why it cannot be read. pixels:
    uint8 (N, 3, side, side), memory-mapped, zeros where a file has a fault; None where they do not fit in memory."""

    digests: np.ndarray
    faults: dict[str, str]
    pixels: np.ndarray | None


def decode(folder: Path, files: list[str], side: int, memory: Path, num_workers: int) -> Decoded:
    """Read the pictures in `files`, names within `folder`, as centre squares of `side` pixels.

    memory: the file (`.npy`) in which all of it is remembered, as long as names, sizes and times of change of the files
    stay the same; all but the pixels, where these do not fit, beside it. num_workers: files read at once."""
    _remove_litter(memory)
    fits = len(files) * 3 * side**2 <= free_memory() / SHARE
    facts = {"holds": "decoded images", "files_sha256": _state_of(folder, files), "side": side}
    record = fresh_manifest(memory, facts)
    if (
        record is None and not fits
    ):  # under another name: at the same time another process may load the pixels
        memory = memory.with_name(f"{memory.stem}-files.npy")
        record = fresh_manifest(memory, facts)
    if record is None:
        record = _read_all(folder, files, side, memory, num_workers, facts, fits)
    pixels = np.load(memory, mmap_mode="c") if fits else None  # copy on write: PyTorch wants writable memory
    return Decoded(np.array(record["digests"], dtype="S64"), record["faults"], pixels)


def _state_of(folder: Path, files: list[str]) -> str:
    """SHA-256 of names, sizes and times of change."""
    digest = sha256()
    for name in files:
        try:
            status = os.stat(folder / name)
            digest.update(os.fsencode(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0"))
        except OSError:  # it is a fault, too
            digest.update(os.fsencode(f"{name}\0gone\0"))
    return digest.hexdigest()


def _remove_litter(memory: Path) -> None:
    """What killed processes left half written, which may be gigabytes; a day old, as no lock tells it from others."""
    for part in memory.parent.glob(f"{glob.escape(memory.stem)}*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > DAY:
                part.unlink()


def _read_all(
    folder: Path, files: list[str], side: int, memory: Path, num_workers: int, facts: dict, keep: bool
) -> dict:
    facts |= {"digests": [], "faults": {}}

    def read(name: str) -> tuple[str, np.ndarray | str]:
        return _read(folder / name, side)

    bar = tqdm(total=len(files), desc=f"reading {folder.name}, once", unit="img", disable=None, leave=False)
    pool = ThreadPoolExecutor(
        max(1, min(num_workers, cpu_count()))
    )  # threads: Pillow decodes without Python's lock
    try:
        with storage_errors(memory):
            memory.parent.mkdir(parents=True, exist_ok=True)
        shape = (len(files) if keep else 0, 3, side, side)
        with new_array(memory, shape, np.uint8, facts) as pixels:
            for start in range(0, len(files), CHUNK):
                names = files[start : start + CHUNK]
                for name, (digest, result) in zip(names, pool.map(read, names), strict=True):
                    facts["digests"].append(digest)
                    if isinstance(result, str):
                        facts["faults"][name] = result
                        result = np.zeros((3, side, side), np.uint8)
                    if keep:
                        pixels[len(facts["digests"]) - 1] = result
                    bar.update()
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()
    return facts


def _read(path: Path, side: int) -> tuple[str, np.ndarray | str]:
    """The SHA-256 of a file, and its picture, uint8 (3, side, side), or why there is none."""
    digest = ""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("no regular file")  # reading a pipe or a device would never end
        content = path.read_bytes()
        digest = sha256(content).hexdigest()
        return digest, np.asarray(read_square(io.BytesIO(content), side)).transpose(2, 0, 1)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds for a bad file
        return digest, reason_of(error)
