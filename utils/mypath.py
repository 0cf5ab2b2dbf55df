"""Paths as users write them, and where the data sets lie: a config (`db_root_dir.<name>`) or the environment
may name another folder."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from utils.errors import UserError

SCRIPTS = Path(__file__).resolve().parents[1]  # the folder of the scripts
GUARDED = re.compile(r"(\./)*[-~'\"]")  # what would be read otherwise than as a name, perhaps behind `./`
VARIABLE = re.compile(r"\$(?:(\$)|([A-Za-z_]\w*)|\{([^}]*)\})", re.ASCII)
IMAGENET = ("datasets/imagenet", "SCAN_IMAGENET_DIR")  # ImageNet and its subsets share one folder
DATASET_FOLDERS = {  # name: (default folder, environment variable)
    "cifar-10": ("datasets/cifar-10", "SCAN_CIFAR_10_DIR"),
    "cifar-20": ("datasets/cifar-20", "SCAN_CIFAR_20_DIR"),
    "stl-10": ("datasets/stl-10", "SCAN_STL_10_DIR"),
    "fashion-mnist": ("datasets/fashion-mnist", "SCAN_FASHION_MNIST_DIR"),
    **dict.fromkeys(("imagenet", "imagenet_50", "imagenet_100", "imagenet_200"), IMAGENET),
}


def beside_scripts(path: str) -> str:
    """A relative path as it is if there is such a file or folder, else beside the scripts if one is there."""
    return str(SCRIPTS / path) if not os.path.exists(path) and (SCRIPTS / path).exists() else path


def expanded(text: str) -> str:
    """The path that a user means: with `~`, `$NAME` and `${NAME}` put in; `$$` is a dollar sign.

    If there is no file of this name with its quotes, but one without them, that is meant. Raises UserError
    for an unset variable and an unknown user, unless there is a file of this very name."""
    is_there = os.path.lexists(text)

    def value(match: re.Match) -> str:
        dollar, *names = match.groups()
        found = dollar or os.environ.get(names[0] or names[1])
        if not (found or is_there):
            lack = f"{text[:200]} needs {match[0][:100]}, which is not set"
            raise UserError(f"{lack}: export it, or write $$ for a dollar sign")
        return found or match[0]

    path = VARIABLE.sub(value, text)
    if text.startswith("./") and GUARDED.match(text):
        return path[2:]
    path = os.path.expanduser(path)
    if path.startswith("~") and not is_there:
        raise UserError(f"{text[:200]} begins with no user's name: write ./~ for a name with a tilde")
    if not is_there and re.fullmatch(r"(['\"]).+\1", text) and os.path.lexists(inner := expanded(text[1:-1])):
        return inner
    return path


def written(path: str | Path) -> str:
    """The text that `expanded` takes for this path, in a YAML, an override or after an option."""
    text = str(path).replace("$", "$$")
    return f"./{text}" if GUARDED.match(text) else text


class MyPath:
    @staticmethod
    def db_root_dir(name: str, configured: Mapping[str, str] | None = None) -> str:
        """The folder of data set `name`: from the config, else the environment, else the table above.

        configured: {name: folder}, the config's `db_root_dir`; `imagenet` there serves its subsets too."""
        default, variable = DATASET_FOLDERS[name]
        configured = configured or {}
        shared = configured.get("imagenet") if DATASET_FOLDERS[name] is IMAGENET else None
        return configured.get(name) or shared or expanded(os.environ.get(variable) or beside_scripts(default))
