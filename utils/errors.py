"""What may go wrong, and the exit code each kind ends with."""


class UserError(Exception):
    """A mistake the user can mend. One line: what is wrong, the value, what to do. Exit code 2."""


class RunError(Exception):
    """A run that cannot go on: storage failed, or the numbers did. One line: where, and what is safe. Exit code 3."""
