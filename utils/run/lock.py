"""One run at a time in a folder, on one machine or several."""

import errno
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from utils.console import say
from utils.errors import RunError, UserError
from utils.storage.files import storage_errors

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
ELSEWHERE = "name another root_dir=... or run_name=..."


class Claim(NamedTuple):
    """A folder in which this run works. is_sole: those there before, on other machines, have ended."""

    file: Path
    holder: str
    is_sole: bool

    def check(self) -> None:
        """Raise RunError if another run has claimed the folder since, where the system's lock has no say."""
        with storage_errors(self.file, "read"), suppress(FileNotFoundError):
            if (now := self.file.read_text()) != self.holder:
                raise RunError(f"{self.file}: another run took the folder ({now}); what was saved is whole")


@contextmanager
def locked(folder: Path) -> Iterator[Claim]:
    """Hold the lock `.<folder>.lock` beside a folder. The system frees it however the process ends.

    Raises UserError if another run holds it. A system's lock may not reach other machines, so the file names
    its holder until that ends: if one elsewhere has not ended, that is said, and that one's `Claim.check`
    fails. On a file system without locks it is the same with any run."""
    from filelock import FileLock, Timeout

    path = folder.with_name(f".{folder.name}.lock")
    lock = FileLock(path, timeout=0, fallback_to_soft=False)  # a soft lock would outlive a killed run
    machine = f" on {socket.gethostname()}, "
    holder = f"held by process {os.getpid()}{machine}{secrets.token_hex(4)}"
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
        is_sole = machine in before or not before.startswith("held by")
        path.write_text(holder)
    if not is_sole:
        say(f"warning: {folder} was {before}: if that still works, it stops before it writes again")
    claim = Claim(path, holder, is_sole)
    try:
        yield claim
    finally:
        with suppress(OSError, RunError):
            claim.check()
            path.write_text("")
        lock.release()
