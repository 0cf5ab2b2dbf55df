"""One run at a time in a folder, on one machine or several."""

import errno
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.console import say
from utils.errors import RunError, UserError
from utils.storage.files import storage_errors

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
ELSEWHERE = "name another root_dir=... or run_name=..."


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[], None]]:
    """Hold the lock `.<folder>.lock` beside a folder. The system frees it however the process ends.

    Raises UserError if another run holds it. A system's lock may not reach other machines, and some file
    systems have none: so the file names its holder until that ends. A run that finds another there says so;
    the check that the block gets then raises RunError in that other run."""
    from filelock import FileLock, Timeout

    path = folder.with_name(f".{folder.name}.lock")
    lock = FileLock(path, timeout=0, fallback_to_soft=False)  # a soft lock would outlive a killed run
    machine = f" on {socket.gethostname()}, "
    holder = f"held by process {os.getpid()}{machine}{secrets.token_hex(4)}"

    def check() -> None:
        with storage_errors(path, "read"), suppress(FileNotFoundError):
            if (now := path.read_text()) != holder:
                raise RunError(f"{path}: another run took the folder ({now}); what was saved is whole")

    with storage_errors(path, elsewhere=ELSEWHERE):
        try:
            lock.acquire()
        except Timeout as error:
            other = path.read_text() or "it does not say which"
            raise UserError(
                f"another run works in {folder} ({other}): wait for it, stop it, or give this one its own "
                "run_name=..."
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            say(f"warning: the file system of {folder} has no locks: let no other run work in this folder")
        before = path.read_text() if path.exists() else ""
        path.write_text(holder)
    if before.startswith("held by") and machine not in before:  # one on this machine would have the lock
        say(f"warning: {folder} was {before}: if that still works, it stops before it writes again")
    try:
        yield check
    finally:
        with suppress(OSError, RunError):
            check()
            path.write_text("")
        lock.release()
