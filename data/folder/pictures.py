"""Your own pictures: all that lie in a folder and in the folders inside it, with labels as far as there are any."""

import os
from collections import Counter
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from easydict import EasyDict

from data.dataset import ResidentDataset, StreamedDataset
from data.folder.decoded import decode
from data.folder.labels import in_order, read_labels
from data.folder.scan import leave_out, write_list
from data.image_files import SHORT_SIDE
from utils.console import say_once
from utils.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
IMAGENET_CROP = 224  # pixels, of views from images of short side 256
MOST_SHOWN = 20  # classes in a line


def read_folder(cfg, split: str) -> ResidentDataset | StreamedDataset:
    """The `train` or `val` split of `folder.path`: val is `folder.val_path`; else the share `folder.val_share` is held
    out, by the content of the files, so that neither their names nor the seed change it; with a share of 0 it is all.

    Raises UserError as `images_in`, and for a share that leaves a split empty."""
    own = cfg.folder
    if "path" not in own:
        raise UserError(
            "folder.path is missing: give it, or the folder of pictures to look at as --predict FOLDER"
        )
    if "val_path" in own:
        if Path(own.val_path).resolve().is_relative_to(Path(own.path).resolve()):
            say_once(
                f"warning: folder.val_path {own.val_path} lies in folder.path: its pictures are trained on, too"
            )
        return images_in(cfg, own.val_path if split == "val" else own.path)
    dataset = images_in(cfg, own.path)
    number = round(own.val_share * len(dataset))
    if own.val_share and not 0 < number < len(dataset):
        raise UserError(
            f"folder.val_share {own.val_share} of {len(dataset)} images leaves a split empty: give more pictures, "
            "another share, or 0, which evaluates on the images that it trains on"
        )
    if number == 0:
        say_once("folder.val_share is 0: the images that are trained on are evaluated, too")
        return dataset
    by_content = torch.from_numpy(files_of(dataset).marks.argsort(kind="stable"))  # equal files side by side
    held_out = torch.zeros(len(dataset), dtype=torch.bool)
    held_out[by_content[:number]] = True
    return dataset.select((held_out if split == "val" else ~held_out).nonzero()[:, 0])


def new_pictures(cfg, path: str) -> ResidentDataset | StreamedDataset:
    """Every picture in a folder that need not be the data set's; without labels, where these do not serve there."""
    files, _ = list_pictures(Path(path))
    try:
        read_labels(Path(path), files, cfg.folder.labels)
    except UserError as error:
        say_once(f"no labels: {error}")
        cfg = EasyDict(cfg, folder={**cfg.folder, "labels": "none"})
    return images_in(cfg, path)


def images_in(cfg, path: str) -> ResidentDataset | StreamedDataset:
    """Every picture in a folder, by path, prepared and labelled as the config's `folder` says.

    An image is the centre square, of `folder.side` pixels; when that is absent, of the size of the plain view, as of
    ImageNet's 256 for its 224. In memory if they take at most half of what is free, else in their files, which makes
    no difference to the images. Files that cannot be read, exact duplicates and labels are counted on the console, and
    the first two listed in text files in `root_dir`/scans.
    Raises UserError for a folder that is missing, holds no picture or holds `root_dir`, for files that cannot be read,
    unless `on_error` is skip, and as `read_labels`."""
    own, folder, size = cfg.folder, Path(path), cfg.transformation_kwargs.crop_size
    side = own.get("side", SHORT_SIDE if size == IMAGENET_CROP else size)
    if Path(cfg.root_dir).resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"root_dir {cfg.root_dir} lies in {folder.absolute()}, so the figures in it would be taken for your "
            "pictures: give a root_dir=... outside"
        )
    files, others = list_pictures(folder)
    labels = read_labels(folder, files, own.labels)
    where = sha256(os.fsencode(folder.absolute())).hexdigest()[:12]
    memory = Path(cfg.root_dir, "scans", f"{folder.absolute().name[:40]}-{where}-{side}px.npy")
    decoded = decode(folder, files, side, memory, cfg.num_workers)
    if decoded.faults:
        leave_out(folder, decoded.faults, cfg.on_error, memory.with_name(f"{memory.stem}-unreadable.txt"))
    readable = torch.tensor([name not in decoded.faults for name in files])
    if not readable.any():
        raise UserError(
            f"none of the {len(files)} pictures in {folder.absolute()} can be read: put others there"
        )

    classes = _classes(own, labels)
    number_of = {name: number for number, name in enumerate(classes)}
    targets = torch.tensor([number_of.get(labels.get(name), -1) for name in files]) if classes else None
    names = np.array([os.fsencode(name) for name in files])
    dataset = StreamedDataset(folder, names, decoded.digests, targets, classes, cfg.num_workers, side)
    if decoded.pixels is not None:
        dataset = ResidentDataset(torch.from_numpy(decoded.pixels), targets, classes, dataset)
    if not readable.all():
        dataset = dataset.select(readable.nonzero()[:, 0])
    _describe(folder, dataset, others, memory)
    return dataset


def list_pictures(folder: Path) -> tuple[list[str], int]:
    """The picture files in a folder and in those inside it, names within it, sorted; and how many others there are.

    Hidden files and folders are left out. Raises UserError for a folder that is missing or holds no picture."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{folder.absolute()} {what}: give the folder that holds your pictures")
    found, others, seen = [], 0, set()
    for place, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".")
        )  # of two links always the same one
        shown = [name for name in files if not name.startswith(".")]
        pictures = [name for name in shown if name.lower().endswith(SUFFIXES)]
        within = os.path.relpath(place, folder)
        found += pictures if within == os.curdir else [os.path.join(within, name) for name in pictures]
        others += len(shown) - len(pictures)
    if not found:
        raise UserError(
            f"{folder.absolute()} holds no picture ({', '.join(SUFFIXES)}; {others} other files): give the folder that "
            "holds yours"
        )
    return sorted(found, key=os.fsencode), others


def _refuse(error: OSError) -> NoReturn:
    raise UserError(
        f"{os.path.abspath(error.filename)} cannot be listed ({error.strerror}): make it readable, or move it elsewhere"
    ) from error


def files_of(dataset) -> StreamedDataset | None:
    """The files of a data set, None if it has none."""
    return dataset if isinstance(dataset, StreamedDataset) else dataset.source


def _classes(own, labels: dict[str, str]) -> list[str]:
    """The classes that targets count, the same for both splits; none where fewer than two are known."""
    if own.labels == "none":
        return []
    found = set(labels.values())
    for path in {own.get("path"), own.get("val_path")} - {None}:
        with suppress(UserError):  # not there, or not in the table, which matters only to the split itself
            found |= set(read_labels(Path(path), list_pictures(Path(path))[0], own.labels).values())
    if not found:
        say_once(f"warning: folder.labels is {own.labels}, but no picture has a label")
    if len(found) == 1:
        say_once(
            f"warning: 1 class found, {min(found)}: there is nothing to compare, so labels are left aside"
        )
    return in_order(found) if len(found) > 1 else []


def _describe(folder: Path, dataset, others: int, memory: Path) -> None:
    """Say what was found."""
    text = f"{folder.absolute()}: {len(dataset):,} pictures"
    if others:
        text += f", {others:,} files of other kinds passed over"
    if groups := dataset.duplicates():
        copies = sum(len(rows) - 1 for rows in groups)
        path = memory.with_name(f"{memory.stem}-duplicates.txt")
        write_list(path, ("\t".join(dataset.name(row) for row in rows) for rows in groups))
        text += f", {copies:,} of them exact copies of others (listed in {path})"
    say_once(text)
    if dataset.targets is not None:
        counts = Counter(dataset.targets[dataset.targets >= 0].tolist())
        shown = [f"{name} ({counts[number]:,})" for number, name in enumerate(dataset.classes)]
        more = f" and {len(shown) - MOST_SHOWN} more" if len(shown) > MOST_SHOWN else ""
        classes = f"{len(shown)} classes: {', '.join(shown[:MOST_SHOWN])}{more}"
        say_once(f"labels, for evaluation alone: {counts.total():,} of {len(dataset):,} pictures, {classes}")
