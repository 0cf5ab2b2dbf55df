"""Images: data sets by name, batched augmentation, and the loader that hands out augmented views."""

from data.digits import read_digits
from utils.errors import UserError

DATASETS = {"digits": read_digits}  # name -> function of the split


def build_dataset(cfg, split: str):
    """The `train` or `val` split of the config's data set: `len`, `targets`, `classes` and `get_image(i)`.

    Raises UserError for a data set without a reader."""
    name = cfg.train_db_name if split == "train" else cfg.val_db_name
    if name not in DATASETS:
        raise UserError(f"data set {name!r} has no reader yet: choose one of {', '.join(sorted(DATASETS))}")
    return DATASETS[name](split)
