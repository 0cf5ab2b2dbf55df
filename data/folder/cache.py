"""What reading the files of a folder finds out, cached until one of them changes."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.image_files import pillow_warnings_ignored
from utils.device import cpu_count
from utils.errors import RunError
from utils.storage.files import new_array, storage_errors, verify_manifest

QUEUE = 256  # results that may wait to be taken


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
    path: Path, shape: tuple, fill: Callable[[np.ndarray], dict], fault_of: Callable[[str], str]
) -> tuple[np.ndarray, dict]:
    """The memory-mapped uint8 array and the metadata of a cache.

    If it is missing or damaged, `fill(array)` fills the array and returns metadata; so too if a file named in
    the metadata's `faults` has been repaired, which no time or size may show. fault_of: of a file, now."""
    metadata = {}
    with suppress(RunError, OSError):
        metadata = verify_manifest(path) or {}
    if not all(map(fault_of, metadata.get("faults", ()))):
        metadata = {}
    if not metadata:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with new_array(path, shape, np.uint8, metadata) as array:
            metadata |= fill(array)
    return np.load(path, mmap_mode="c"), metadata  # copy on write: PyTorch wants writable memory


def in_threads(function: Callable, items: Sequence, num_workers: int, title: str) -> list:
    """`function` of each item, in order. Threads are enough: Pillow decodes without Python's lock."""
    results = []
    pool = ThreadPoolExecutor(max(1, min(num_workers, cpu_count())))
    bar = tqdm(total=len(items), desc=title, disable=None, leave=False)
    with pillow_warnings_ignored(), pool, bar:
        for start in range(0, len(items), QUEUE):
            for result in pool.map(function, items[start : start + QUEUE]):
                results.append(result)
                bar.update()
    return results
