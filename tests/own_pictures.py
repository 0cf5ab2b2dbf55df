"""Folders of image files such as users have."""

from pathlib import Path

import numpy as np
from PIL import Image

from data import build_dataset
from data.datasets.digits import read_digits
from tests.image_trees import picture
from utils.config import load_config


def write_digits(folder: Path, split: str, every: int) -> dict[str, str]:
    """One in `every` digit as PNG files with odd names; returns the class of each name."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset, labels = read_digits(split), {}
    for row in range(0, len(dataset), every):
        name = f"{row * 7919 % 10007:05d} é #{row}, scan.PNG"
        dataset.get_image(row).save(folder / name, "PNG")
        labels[name] = str(int(dataset.targets[row]))
    return labels


def add_oddities(folder: Path, digit: Path) -> None:
    """Other files of such a folder: copies of one digit, as it is and as grey, RGBA and 16-bit images, a
    broken image, a text and a hidden file."""
    with Image.open(digit) as image:
        grey = image.convert("L")
        image.convert("RGBA").save(folder / "rgba.png")
    grey.save(folder / "grey.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(folder / "16-bit.png")
    (folder / "copy.png").write_bytes(digit.read_bytes())
    (folder / "broken.png").write_bytes(digit.read_bytes()[:100])
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_text("not a picture either")


WHOLE = "folder.val_share=0"  # both splits are the whole folder
NAMES = [f"{number:02d}.png" for number in range(20)]


def config(folder, *overrides):
    """The digits' config for images in a folder, with the results beside it."""
    own = ["train_db_name=folder", "val_db_name=folder", f"folder.path={folder}", "num_workers=2"]
    own += [f"root_dir={folder.parent / 'results'}"]
    return load_config(None, "configs/pretext/simclr_digits.yml", [*own, *overrides])


def build(folder, split="train", *overrides):
    return build_dataset(config(folder, *overrides), split)


def write(folder, *names, size=(20, 20)):
    """Images that all differ, the first of number 0."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number, *size).save(folder / name)


def names_of(dataset):
    return [dataset.name(row) for row in range(len(dataset))]
