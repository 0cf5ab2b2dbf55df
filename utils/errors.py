"""What may go wrong, and the exit code each kind ends with."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


class UserError(Exception):
    """A mistake the user can mend. One line: what is wrong, the value, what to do."""

    exit_code = 2


class RunError(Exception):
    """A run that cannot go on, as storage, memory or the numbers failed. One line, as above."""

    exit_code = 3


def attempt(use: Callable[[], Any], library: str) -> tuple[Any, str]:
    """What `use()` returns, and "". Where it fails, None and what is wrong with an optional library; also ""
    if this one is not installed. A broken library may raise anything."""
    try:
        return use(), ""
    except (Exception, SystemExit) as error:
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == library
        return None, "" if is_missing else f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def needed(*modules: str) -> None:
    """Import what is used only at the end of long work. Raises UserError for a library that is missing or
    broken, as one built for another NumPy is."""
    for module in modules:
        try:
            import_module(module)
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise UserError(f"{module} does not work here ({reason}): install its library anew") from error


def lost_worker(error: BaseException) -> str:
    """What to say of PyTorch's error that a worker process died; "" for other errors."""
    text = " ".join(str(error).split())
    if not text.startswith(("DataLoader worker", "Pin memory thread")):
        return ""
    remedy = "lower num_workers (0 starts none), or enlarge /dev/shm; what was saved is whole"
    return f"a process that reads images died ({text}): {remedy}"
