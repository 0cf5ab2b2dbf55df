"""One run at a time in a folder."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.console import say
from utils.errors import UserError
from utils.storage.files import storage_errors

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock `.<folder>.lock` beside a folder. The system frees it however the process ends.

    Raises UserError if another run holds it. On a file system without locks the block runs, with a
    warning."""
    from filelock import FileLock, Timeout

    path = folder.with_name(f".{folder.name}.lock")
    lock = FileLock(path, timeout=0, fallback_to_soft=False)  # a soft lock would outlive a killed run
    with storage_errors(path):
        try:
            lock.acquire()
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        except Timeout as error:
            holder = path.read_text() or "it does not say which"
            raise UserError(
                f"another run works in {folder} ({holder}): wait for it, stop it, or give this one its own "
                "run_name=..."
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            say(f"warning: the file system of {folder} has no locks: let no other run work in this folder")
    try:
        yield
    finally:
        lock.release()
