"""What may go wrong, and the exit code each kind ends with."""


class UserError(Exception):
    """A mistake the user can mend. One line: what is wrong, the value, what to do. Exit code 2."""


class RunError(Exception):
    """A run that cannot go on, as storage, memory or the numbers failed. One line. Exit code 3."""


def lost_worker(error: RuntimeError) -> str:
    """What to say of PyTorch's error that a worker process died; "" for other errors."""
    text = " ".join(str(error).split())
    if not text.startswith(("DataLoader worker", "Pin memory thread")):
        return ""
    return (
        f"a process that reads images died ({text}): lower num_workers (0 starts none), or enlarge /dev/shm; "
        "what was saved is whole"
    )
