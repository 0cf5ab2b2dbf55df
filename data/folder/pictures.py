"""Your own images: those in a folder and in the folders inside it, with labels if there are any."""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from easydict import EasyDict

from data.dataset import ResidentDataset, StreamedDataset
from data.folder.labels import read_labels
from data.folder.scan import decode, leave_out, write_list
from data.image_files import SHORT_SIDE
from utils.console import say_once
from utils.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def read_folder(cfg, split: str) -> ResidentDataset | StreamedDataset:
    """The `train` or `val` split of `folder.path`.

    val is `folder.val_path`, or a share `folder.val_share` of the images, chosen by the content of the files;
    with 0 both splits are the whole folder. Raises UserError as `images_in`, and for an empty split."""
    own = cfg.folder
    if "path" not in own:
        raise UserError("folder.path is missing: give the folder of your images (to eval.py, --predict)")
    if "val_path" in own:
        if Path(own.val_path).resolve().is_relative_to(Path(own.path).resolve()):
            say_once(f"warning: folder.val_path {own.val_path} is inside folder.path and is trained on, too")
        return images_in(cfg, own.val_path if split == "val" else own.path)
    dataset = images_in(cfg, own.path)
    if own.val_share == 0:
        say_once("folder.val_share is 0: evaluation uses the training images")
        return dataset
    number = round(own.val_share * len(dataset))
    if not 0 < number < len(dataset):
        text = f"folder.val_share {own.val_share} of {len(dataset)} images leaves a split empty"
        raise UserError(f"{text}: give another share, or 0 to evaluate on the training images")
    by_content = torch.from_numpy(dataset.source.signatures.argsort(kind="stable"))
    return dataset.select((by_content[:number] if split == "val" else by_content[number:]).sort().values)


def new_pictures(cfg, path: str) -> ResidentDataset | StreamedDataset:
    """All images of another folder than the data set's, without labels if the rule for labels fails there."""
    try:
        read_labels(Path(path), list_pictures(Path(path))[0], cfg.folder.labels)
    except UserError as error:
        say_once(f"no labels: {error}")
        cfg = EasyDict(cfg, folder={**cfg.folder, "labels": "none"})
    return images_in(cfg, path)


def images_in(cfg, path: str) -> ResidentDataset | StreamedDataset:
    """All images in a folder, sorted by path, prepared and labelled as the config's `folder` says.

    An image is a centre square of `folder.side` pixels: by default the crop size of the val transform, or 256
    for ImageNet's 224. They are held in memory if they take at most half of what is free, else streamed.
    Raises UserError for a folder without images or with `root_dir` in it, as `leave_out`, `read_labels`."""
    own, folder, caches = cfg.folder, Path(path).absolute(), Path(cfg.root_dir, "scans")
    if Path(cfg.root_dir).resolve().is_relative_to(folder.resolve()):
        raise UserError(f"root_dir {cfg.root_dir} is inside {folder}: give a root_dir=... outside")
    size = cfg.transformation_kwargs.crop_size
    side = own.get("side", SHORT_SIDE if size == 224 else size)
    files, others = list_pictures(folder)
    labels = read_labels(folder, files, own.labels)
    digests, faults, pixels = decode(folder, files, side, caches, cfg.num_workers)
    leave_out(caches, folder, faults, cfg.on_error)
    rows = [row for row, name in enumerate(files) if name not in faults]
    if not rows:
        raise UserError(f"none of the {len(files)} images in {folder} can be read: put others there")

    classes = _classes(own, labels)
    numbers = {name: number for number, name in enumerate(classes)}
    targets = torch.tensor([numbers.get(labels.get(name), -1) for name in files]) if classes else None
    names = np.array(list(map(os.fsencode, files)))
    dataset = StreamedDataset(folder, names, digests, targets, classes, cfg.num_workers, side)
    if pixels is not None:
        dataset = ResidentDataset(torch.from_numpy(pixels), targets, classes, dataset)
    dataset = dataset.select(torch.tensor(rows)) if faults else dataset
    say_once(f"{folder}: {len(dataset):,} images, {others:,} other files ignored")
    if groups := dataset.duplicates():
        lines = ("\t".join(dataset.name(row) for row in rows) for rows in groups)
        listed = write_list(caches, folder, "duplicates", lines)
        copies = sum(map(len, groups)) - len(groups)
        say_once(f"{folder}: {copies:,} images are exact copies of others (listed in {listed})")
    if classes:
        text = f"{(dataset.targets >= 0).sum():,} images in {len(classes)} classes"
        say_once(f"labels, for evaluation only: {text}, such as {', '.join(classes[:3])}")
    return dataset


def list_pictures(folder: Path) -> tuple[list[str], int]:
    """The image files in a folder and those inside it, sorted names within it; and the number of other files.

    Hidden files and folders are left out. Raises UserError for a folder that is missing or has no image."""
    place = folder.absolute()
    if not folder.is_dir():
        raise UserError(f"{place} is missing or not a folder: give the folder of your images")
    found, others, seen, errors = [], 0, set(), []
    for here, folders, files in os.walk(place, onerror=errors.append, followlinks=True):
        if (real := os.path.realpath(here)) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name[0] != ".")  # for two links to one folder
        within = os.path.relpath(here, place)
        files = [os.path.normpath(os.path.join(within, name)) for name in files if name[0] != "."]
        images = [name for name in files if name.lower().endswith(SUFFIXES)]
        found += images
        others += len(files) - len(images)
    if errors:
        raise UserError(f"{place} cannot be listed ({errors[0]}): make it readable, or move it")
    if not found:
        raise UserError(f"{place} has no image ({', '.join(SUFFIXES)}) among {others} files: give another")
    return sorted(found, key=os.fsencode), others


def _classes(own, labels: dict[str, str]) -> list[str]:
    """The classes of both splits together, numbers by size before words; [] for fewer than two."""
    found = set(labels.values())
    for path in {own.get("path"), own.get("val_path")} - {None}:
        with suppress(UserError):  # missing, or not in the table: an error only where that split is read
            found |= set(read_labels(Path(path), list_pictures(Path(path))[0], own.labels).values())
    if len(found) < 2:
        if own.labels != "none":
            say_once(f"warning: folder.labels {own.labels} gives fewer than two classes {found}: not used")
        return []
    return sorted(found, key=lambda label: (0, int(label), label) if label.isdecimal() else (1, 0, label))
