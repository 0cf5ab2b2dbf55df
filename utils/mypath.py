"""Where the data sets lie. A config (`db_root_dir.<name>`) or the environment may name another folder."""

import os
from collections.abc import Mapping
from pathlib import Path

SCRIPTS = Path(__file__).parents[1]  # the folder of the scripts

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


class MyPath:
    @staticmethod
    def db_root_dir(name: str, configured: Mapping[str, str] | None = None) -> str:
        """The folder of data set `name`: from the config, else the environment, else the table above.

        configured: {name: folder}, the config's `db_root_dir`; `imagenet` there serves its subsets too."""
        default, variable = DATASET_FOLDERS[name]
        configured = configured or {}
        shared = configured.get("imagenet") if DATASET_FOLDERS[name] is IMAGENET else None
        given = configured.get(name) or shared or os.environ.get(variable)
        return os.path.expanduser(given or beside_scripts(default))
