"""Reads all image files of a folder once, caches what it finds, and reports those that cannot be read."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path

import numpy as np

from data.image_files import BITS, fault_of, read_square, reason_of
from utils.console import progress, say_once, warnings_ignored
from utils.device import cpu_count, free_memory
from utils.errors import RunError, UserError
from utils.storage.files import new_array, verify_manifest, writable_folder, write_whole

SUFFIX = ".JPEG"  # of files in class folders
QUEUE = 256  # results that may wait to be taken
DEPTHS = (8, 10, 12, 14, 16, 24, 32)  # bits of the values in files of more than 8 bits


def cache_path(caches: Path, folder: Path, names: Sequence[str], depends=None) -> Path:
    """The cache of what reading `names` finds out: named by their sizes and times, `folder` and `depends`.

    A directory stands for its list of files: its time changes when one is added, removed or renamed."""
    digest = sha256(os.fsencode(f"{folder.absolute()}\0{depends}\0"))
    for name in names:
        state = f"{name}\0"
        with suppress(OSError):  # a broken link; reading it fails, too
            status = os.stat(os.path.join(folder, name))
            state += f"{status.st_size}\0{status.st_mtime_ns}\0"
        digest.update(os.fsencode(state))
    return caches / f"{folder.absolute().name[:40]}-{digest.hexdigest()[:16]}.npy"


def cached(
    path: Path, shape: tuple, fill: Callable, fault_of: Callable, is_whole: Callable = lambda *_: True
) -> tuple[np.ndarray, dict]:
    """The memory-mapped uint8 array and the metadata of a cache.

    If it is missing, damaged or not `is_whole(array, metadata)`, `fill(array)` fills the array and returns
    metadata; so too if a file named in the metadata's `faults` has been repaired, which no time or size may
    show. fault_of(file): its fault now, "" for none. Where caches are read-only the new one is temporary."""

    def places() -> Iterator[Path]:
        yield path
        yield writable_folder(path.parent) / path.name

    for place in places():
        with suppress(RunError, OSError, LookupError, TypeError, AttributeError, ValueError):  # odd metadata
            metadata = verify_manifest(place) or {}
            array = np.load(place, mmap_mode="c")  # copy on write: PyTorch wants writable memory
            is_right = array.shape == shape and is_whole(array, metadata)
            if is_right and all(map(fault_of, metadata["faults"].keys())):
                return array, metadata
    metadata = {}
    with new_array(place, shape, np.uint8, metadata) as array:
        metadata |= fill(array)
    return np.load(place, mmap_mode="c"), metadata


def in_threads(function: Callable, items: Sequence, num_workers: int, title: str) -> list:
    """`function` of each item, in order. Threads are enough: Pillow decodes without Python's lock."""
    pool = ThreadPoolExecutor(max(1, min(num_workers, cpu_count())))
    with warnings_ignored(), pool:
        groups = (items[start : start + QUEUE] for start in range(0, len(items), QUEUE))
        results = chain.from_iterable(pool.map(function, group) for group in groups)
        return list(progress(results, title, len(items)))


def files_of(folder: Path, classes: list[str], caches: Path, num_workers=0, on_error="stop") -> list[dict]:
    """The readable *.JPEG files in each class folder: sorted names with sizes in bytes, without hidden files.

    Each file is decoded once, and again when the modification time of its folder changes; that a readable
    file is overwritten in its place is not noticed. Raises UserError for a class without images, and as
    `leave_out`."""
    there = [name for name in classes if os.path.isdir(folder / name)]

    def is_whole(_, metadata: dict) -> bool:
        return isinstance(metadata["sizes"], dict)

    def check(name: str) -> dict:
        def read(_) -> dict:
            try:
                listed = os.listdir(place)
            except OSError as error:
                raise UserError(f"{place} cannot be listed ({error.strerror}): make it readable") from error
            files = sorted(file for file in listed if file.endswith(SUFFIX) and file[0] != ".")
            faults = {file: fault for file in files if (fault := fault_of(place / file))}
            sizes = {file: os.stat(place / file).st_size for file in files if file not in faults}
            return {"sizes": sizes, "faults": faults}

        place = folder / name
        path = cache_path(caches, place, [os.curdir])
        return cached(path, (0,), read, lambda file: fault_of(place / file), is_whole)[1]

    found = dict(zip(there, in_threads(check, there, num_workers, f"checking {folder.name}"), strict=True))
    faults = {f"{name}/{file}": fault for name in there for file, fault in found[name]["faults"].items()}
    leave_out(caches, folder, faults, on_error)
    if empty := [name for name in classes if name not in there or not found[name]["sizes"]]:
        text = f"{len(empty)} of {len(classes)} classes, such as {', '.join(empty[:3])}"
        remedy = "name the right folder in db_root_dir.imagenet=... or SCAN_IMAGENET_DIR"
        raise UserError(f"{folder.absolute()} has no *{SUFFIX} file for {text}: {remedy}")
    return [found[name]["sizes"] for name in classes]


def decode(folder: Path, files: list[str], side: int, caches: Path, num_workers: int) -> tuple:
    """The images in `files`, names within `folder`, as centre squares of `side` pixels, read once and cached.

    Returns digests: bytes (N,), the hexadecimal SHA-256 of each file; faults: file -> why it cannot be read;
    bits: the depth that holds all values of the files of more than 8 bits; pixels: uint8
    (N, 3, side, side), zeros for a fault, or None if they take over half of the free memory."""
    fits = len(files) * 3 * side**2 <= free_memory() / 2

    def fill(pixels: np.ndarray) -> dict:
        def read(row: int, bits: int = BITS) -> tuple[str, str, int]:
            return _read(folder / files[row], side, pixels[row : row + 1], bits)

        found = in_threads(read, range(len(files)), num_workers, f"reading {folder.name}, once")
        deep = [row for row, (*_, highest) in enumerate(found) if highest]
        top = max(highest for *_, highest in found)
        bits = next(bits for bits in DEPTHS if top < 2**bits) if deep else BITS
        if bits != BITS and fits:
            again = in_threads(partial(read, bits=bits), deep, num_workers, f"reading files of {bits} bits")
            for row, result in zip(deep, again, strict=True):
                found[row] = result
        digests, faults, _ = zip(*found, strict=True)
        faults = {file: fault for file, fault in zip(files, faults, strict=True) if fault}
        return {"digests": digests, "faults": faults, "bits": bits}

    def is_whole(_, metadata: dict) -> bool:
        return len(metadata["digests"]) == len(files) and metadata["bits"] in DEPTHS

    def fault(file: str) -> str:
        return _read(folder / file, side, np.empty((0, 3, side, side), np.uint8))[1]

    path = cache_path(caches, folder, files, side if fits else f"{side}, digests only")
    with warnings_ignored():
        pixels, metadata = cached(path, (len(files) * fits, 3, side, side), fill, fault, is_whole)
    digests = np.array(metadata["digests"], dtype="S64")
    return digests, metadata["faults"], metadata["bits"], pixels if fits else None


def _read(path: Path, side: int, pixels: np.ndarray, bits: int = BITS) -> tuple[str, str, int]:
    """Read an image into uint8 (1, 3, side, side), or only check it: (0, ...).

    Returns SHA-256, fault, and the highest of values of more than 8 bits."""
    digest = sha256()
    try:
        if path.exists() and not path.is_file():
            raise ValueError("not a regular file")  # reading a pipe or a device would never end
        with open(path, "rb") as file:
            for block in iter(partial(file.read, 1 << 20), b""):
                digest.update(block)
            file.seek(0)
            square = read_square(file, side, bits)
        pixels[:] = np.asarray(square).transpose(2, 0, 1)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds
        return digest.hexdigest(), reason_of(error), 0
    return digest.hexdigest(), "", square.info["highest"]


def leave_out(caches: Path, folder: Path, faults: dict[str, str], on_error: str) -> None:
    """Report unreadable files, name -> why: with on_error `stop` as a UserError, else in a text file."""
    lines = [f"{folder / name} ({fault})" for name, fault in faults.items()]
    text = f"{len(lines)} image files or folders cannot be read"
    if lines and on_error == "stop":
        raise UserError(f"{text}, such as {', '.join(lines[:3])}: repair them, or set on_error=skip")
    if lines:
        say_once(f"left out: {text} (listed in {write_list(caches, folder, 'unreadable', lines)})")


def write_list(caches: Path, folder: Path, kind: str, lines: Iterable[str]) -> Path:
    """Write a text file in `caches` that lists files of a folder, names byte by byte. Returns its path."""
    path = writable_folder(caches) / f"{cache_path(caches, folder, []).stem}-{kind}.txt"
    write_whole({path: "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")})
    return path
