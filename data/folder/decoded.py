"""The images of a folder, each read once: digests of the files, faults and pixels, cached."""

import io
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np

from data.folder.cache import cache_path, read_cache, reader_threads, write_cache
from data.image_files import read_square, reason_of
from utils.device import free_memory

_read_cache = lru_cache(maxsize=2)(read_cache)  # both splits of a folder read one cache, of gigabytes


def decode(folder: Path, files: list[str], side: int, caches: Path, num_workers: int) -> tuple:
    """The images in `files`, names within `folder`, as centre squares of `side` pixels, read once and cached.

    Returns digests: bytes (N,), the hexadecimal SHA-256 of each file; faults: file -> why it cannot be read;
    pixels: uint8 (N, 3, side, side), zeros for a fault, or None if they take over half of the free memory."""
    fits = len(files) * 3 * side**2 <= free_memory() / 2
    path = cache_path(caches, folder, files, side)
    cached = _read_cache(path)
    if not cached and not fits:
        path = path.with_name(f"{path.stem}-digests.npy")
        cached = _read_cache(path)

    def fill(pixels: np.ndarray) -> dict:
        digests, faults = [], {}
        with reader_threads(num_workers, len(files), f"reading {folder.name}, once") as mapped:
            for row, (digest, result) in enumerate(mapped(lambda name: _read(folder / name, side), files)):
                digests.append(digest)
                if isinstance(result, str):
                    faults[files[row]] = result
                elif fits:
                    pixels[row] = result
        return {"digests": digests, "faults": faults}

    if not cached:
        cached = write_cache(path, (len(files) * fits, 3, side, side), np.uint8, fill)
        _read_cache.cache_clear()
    pixels, metadata = cached
    return np.array(metadata["digests"], dtype="S64"), metadata["faults"], pixels if fits else None


def _read(path: Path, side: int) -> tuple[str, np.ndarray | str]:
    """The SHA-256 of a file, and its image, uint8 (3, side, side), or why it cannot be read."""
    digest = ""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("not a regular file")  # reading a pipe or a device would never end
        content = path.read_bytes()
        digest = sha256(content).hexdigest()
        return digest, np.asarray(read_square(io.BytesIO(content), side)).transpose(2, 0, 1)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds
        return digest, reason_of(error)
