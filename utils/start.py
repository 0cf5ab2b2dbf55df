"""Every script runs this file first, by its path: then Python finds our packages.

PYTHONSAFEPATH leaves the folder of a script out. A notebook may hold other modules called `utils` or `data`:
they are set aside, and come back when the script ends."""

import sys
from pathlib import Path

OURS = ("data", "losses", "models", "scan", "utils")  # of what scripts import


def our_names() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] in OURS]


if __name__ == "__main__":
    path, modules = [*sys.path], {name: sys.modules.pop(name) for name in our_names()}
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import utils

    def put_back() -> None:
        for name in our_names():
            del sys.modules[name]
        sys.modules.update(modules)
        sys.path[:] = path

    utils.put_back = put_back
