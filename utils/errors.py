"""What may go wrong, and the exit code each kind ends with."""


class UserError(Exception):
    """A mistake the user can mend. One line: what is wrong, the value, what to do. Exit code 2."""


class RunError(Exception):
    """A run that cannot go on: storage failed, or the numbers did. One line: where, and what is safe. Exit
    code 3."""


def lost_worker(error: RuntimeError) -> str:
    """What to say of PyTorch's error that a worker died, which comes wherever the process is; "" of other
    errors."""
    text = " ".join(str(error).split())
    if not text.startswith(("DataLoader worker", "Pin memory thread")):
        return ""
    return (
        f"a process that reads images died ({text}): lower num_workers (0 reads in the process itself) or "
        "enlarge /dev/shm, through which images are handed over; what was saved is whole"
    )
