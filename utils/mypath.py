"""Where the data sets live. Change a folder here, in configs/env.yml (`db_root_dir`) or in the environment."""

import os
from collections.abc import Mapping

from utils.errors import UserError

IMAGENET = ("datasets/imagenet", "SCAN_IMAGENET_DIR")  # one folder for ImageNet and its subsets

DATASET_FOLDERS = {  # name: (default folder, environment variable that overrides it)
    "cifar-10": ("datasets/cifar-10", "SCAN_CIFAR_10_DIR"),
    "cifar-20": ("datasets/cifar-20", "SCAN_CIFAR_20_DIR"),
    "stl-10": ("datasets/stl-10", "SCAN_STL_10_DIR"),
    "fashion-mnist": ("datasets/fashion-mnist", "SCAN_FASHION_MNIST_DIR"),
    "imagenet": IMAGENET,
    "imagenet_50": IMAGENET,
    "imagenet_100": IMAGENET,
    "imagenet_200": IMAGENET,
}


class MyPath:
    @staticmethod
    def db_root_dir(name: str, overrides: Mapping[str, str] | None = None) -> str:
        """The folder of data set `name`: environment variable, then `overrides`, then the table above.

        overrides: data set name -> folder, the config's `db_root_dir`; `imagenet` there serves the subsets too.
        Raises UserError for a name without a folder."""
        if name not in DATASET_FOLDERS:
            raise UserError(
                f"no folder is known for data set {name!r}: choose one of {', '.join(DATASET_FOLDERS)}"
            )
        default, variable = DATASET_FOLDERS[name]
        overrides = overrides or {}
        shared = overrides.get("imagenet") if DATASET_FOLDERS[name] is IMAGENET else None
        return os.path.expanduser(os.environ.get(variable) or overrides.get(name) or shared or default)
