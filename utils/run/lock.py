"""The folder of a run: writable, free of what a killed process left, and one run's at a time."""

import os
import socket
from pathlib import Path
from weakref import WeakValueDictionary

from utils.errors import UserError
from utils.storage.files import storage_errors

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None


class FolderLock:
    """Holds `<folder>/.lock` while it lives; the system frees it when the process ends, however it ends."""

    def __init__(self, folder: Path):
        self.descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        if not self._take():
            holder = os.read(self.descriptor, 100).decode(errors="replace").strip()
            raise UserError(
                f"another run is at work in {folder} ({holder}): wait for its end, stop it, or give this one its own "
                "run_name=..."
            )
        os.ftruncate(self.descriptor, 0)
        os.write(self.descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        os.fsync(self.descriptor)

    def _take(self) -> bool:
        try:
            if fcntl:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks: go on without one
            pass
        return True

    def __del__(self):
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def _let_go() -> None:
    """In a forked process, such as one that reads images: the folder is the parent's, and free when the parent ends."""
    for lock in list(_held.values()):
        os.close(lock.descriptor)
        del lock.descriptor
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)

_held: WeakValueDictionary[tuple[int, int], FolderLock] = WeakValueDictionary()


def claim(folder: Path, restart: bool) -> FolderLock:
    """Make `folder` if need be and lock it; `restart` moves what it holds aside, to `<folder>.old-1` and so on.

    Raises UserError if another process is at work there, RunError if nothing can be written."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
        if restart and len(os.listdir(folder)) > 1:  # more than the lock
            number = 1
            while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
                number += 1
            folder.rename(aside)
            folder.mkdir()
            lock = _lock(folder)
        for litter in folder.glob("*.part"):
            litter.unlink()
        return lock


def _lock(folder: Path) -> FolderLock:
    """The lock of `folder`, shared by the runs of this process."""
    status = os.stat(folder)
    place = (status.st_dev, status.st_ino)  # goes along when the folder is renamed
    lock = _held.get(place) or FolderLock(folder)
    _held[place] = lock
    return lock
