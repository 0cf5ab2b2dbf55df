"""Files written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; when the block ends well, flush it and rename it onto `path`.

    A process killed in the middle leaves the old file as it was."""
    part = Path(path).with_name(Path(path).name + ".part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
