"""What reading the files of a folder finds out, cached until one of them changes."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.image_files import pillow_warnings_ignored
from utils.device import cpu_count
from utils.errors import RunError
from utils.storage.files import new_array, storage_errors, verify_manifest

QUEUE = 256  # results that may wait to be taken


def state_of(folder: Path, names: Sequence[str], depends=None) -> str:
    """A hash of the paths `names` within `folder`, their sizes and modification times, and of `depends`.

    A directory among them stands for its list of files: its modification time changes when one is added,
    removed or renamed."""
    digest = sha256(os.fsencode(f"{folder.absolute()}\0{depends}\0"))
    for name in names:
        state = f"{name}\0"
        with suppress(OSError):  # a broken link; reading it fails, too
            status = os.stat(os.path.join(folder, name))
            state += f"{status.st_size}\0{status.st_mtime_ns}\0"
        digest.update(os.fsencode(state))
    return digest.hexdigest()[:16]


def cache_path(caches: Path, folder: Path, names: Sequence[str], depends=None) -> Path:
    """The cache, in the folder `caches`, of what reading `names` finds out; after a change another one."""
    return caches / f"{folder.absolute().name[:40]}-{state_of(folder, names, depends)}.npy"


def read_cache(path: Path) -> tuple[np.ndarray, dict] | None:
    """The memory-mapped array and the manifest of a cache; None if it is missing or damaged."""
    with suppress(RunError, OSError):
        if manifest := verify_manifest(path):
            return np.load(path, mmap_mode="c"), manifest  # copy on write: PyTorch wants writable memory
    return None


def write_cache(path: Path, shape: tuple, dtype, fill: Callable[[np.ndarray], dict]) -> tuple:
    """Make a cache and return it like `read_cache`. `fill(array)` fills the array and returns metadata."""
    metadata = {}
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with new_array(path, shape, dtype, metadata) as array:
        metadata |= fill(array)
    return np.load(path, mmap_mode="c"), metadata


@contextmanager
def reader_threads(num_workers: int, total: int, title: str) -> Iterator[Callable[..., Iterable]]:
    """A function `map(function, items)` that runs in `num_workers` threads, with a progress bar.

    Threads are enough, as Pillow decodes without Python's lock."""
    pool = ThreadPoolExecutor(max(1, min(num_workers, cpu_count())))

    def mapped(function, items):
        for start in range(0, len(items), QUEUE):
            for result in pool.map(function, items[start : start + QUEUE]):
                bar.update()
                yield result

    with pillow_warnings_ignored(), tqdm(total=total, desc=title, disable=None, leave=False) as bar:
        try:
            yield mapped
        finally:
            pool.shutdown(cancel_futures=True)
