"""Your own images: those in a folder and in the folders inside it, with labels if there are any."""

import os
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from easydict import EasyDict

from data.dataset import ResidentDataset, StreamedDataset
from data.folder.labels import in_order, read_labels
from data.folder.ready_features import read_features
from data.folder.scan import decode, leave_out, write_list
from data.image_files import BITS, SHORT_SIDE, image_endings
from utils.console import say_once
from utils.errors import UserError

FEW = 10  # distinct images; fewer are too few to train on or to choose a model by
OF_SYSTEMS = {  # folders of thumbnails, snapshots and deleted files, in small letters
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "~snapshot", "@tmp"),
    *("$recycle.bin", "recycler", "recycled", "system volume information", "lost+found", "__macosx"),
}


def read_folder(cfg, split: str) -> ResidentDataset | StreamedDataset:
    """The `train` or `val` split of `folder.path`.

    val is `folder.val_path`, or a share `folder.val_share` of the images, chosen by the content of the files;
    with 0 both splits are the whole folder. Raises UserError as `images_in`, and for an empty split."""
    own = cfg.folder
    if cfg.backbone != "features" and "path" not in own:
        raise UserError("folder.path is missing: give the folder of your images (to eval.py, --predict)")
    if "val_path" in own and cfg.backbone != "features":
        if _is_within(own.val_path, own.path):
            say_once(f"warning: folder.val_path {own.val_path} is inside folder.path and is trained on, too")
        return images_in(cfg, own.val_path if split == "val" else own.path)
    dataset = read_features(own) if cfg.backbone == "features" else images_in(cfg, own.path)
    if own.val_share == 0:
        say_once("folder.val_share is 0: evaluation uses the training images")
        return dataset
    contents, content_of = np.unique(dataset.source.signatures, return_inverse=True)  # copies are one content
    number = round(own.val_share * len(contents))
    if not 0 < number < len(contents):
        text = f"folder.val_share {own.val_share} of {len(contents)} distinct images leaves a split empty"
        raise UserError(f"{text}: give another share, or 0 to evaluate on the training images")
    if (fewest := min(number, len(contents) - number)) < FEW:
        say_once(f"warning: a split has {fewest} distinct images only, of {len(contents)}")
    is_val = torch.from_numpy(content_of < number)
    return dataset.select((is_val if split == "val" else ~is_val).nonzero()[:, 0])


def new_pictures(cfg, path: str, needs_labels: bool = False) -> ResidentDataset | StreamedDataset:
    """All images of another folder than the data set's.

    They have no labels if the rule for labels fails there, which is a UserError with `needs_labels`."""
    files = list_pictures(Path(path), cfg.on_error)[0]
    try:
        read_labels(Path(path), files, cfg.folder.labels)
    except UserError as error:
        if needs_labels:
            raise
        say_once(f"no labels: {error}")
        cfg = EasyDict(cfg, folder={**cfg.folder, "labels": "none"})
    return images_in(cfg, path)


def images_in(cfg, path: str) -> ResidentDataset | StreamedDataset:
    """All images in a folder, sorted by path, prepared and labelled as the config's `folder` says.

    An image is a centre square of `folder.side` pixels: by default those of the val transform, or 256 for
    a crop of 224 without `resize`. They are held in memory if they take at most half of what is free, else
    streamed. Raises UserError for a folder without images or with `root_dir` in it, as `leave_out`,
    `read_labels`."""
    own, folder, caches = cfg.folder, Path(path).absolute(), Path(cfg.root_dir, "scans")
    if _is_within(cfg.root_dir, folder):
        raise UserError(f"root_dir {cfg.root_dir} is inside {folder}: give a root_dir=... outside")
    plain = cfg.transformation_kwargs
    size = max(plain.crop_size, plain.get("resize", 0))
    side = own.get("side", SHORT_SIDE if size == 224 and "resize" not in plain else size)
    files, others, unlisted = list_pictures(folder, cfg.on_error)
    labels = read_labels(folder, files, own.labels)
    digests, faults, bits, pixels = decode(folder, files, side, caches, cfg.num_workers)
    leave_out(caches, folder, unlisted | faults, cfg.on_error)
    rows = [row for row, name in enumerate(files) if name not in faults]
    if not rows:
        raise UserError(f"none of the {len(files)} images in {folder} can be read: put others there")

    classes = _classes(own, labels)
    numbers = {name: number for number, name in enumerate(classes)}
    targets = torch.tensor([numbers.get(labels.get(name), -1) for name in files]) if classes else None
    names = np.array(list(map(os.fsencode, files)))
    dataset = StreamedDataset(folder, names, digests, targets, classes, cfg.num_workers, side, bits)
    if pixels is not None:
        dataset = ResidentDataset(torch.from_numpy(pixels), targets, classes, dataset)
    dataset = dataset.select(torch.tensor(rows)) if faults else dataset
    ignored = f"{others.total():,} others ignored" + (f" ({_counts(others)})" if others else "")
    say_once(f"{folder}: {len(dataset):,} pictures, {ignored}")
    if bits != BITS:
        say_once(f"{folder}: files of more than 8 bits hold values of {bits} bits, and are read as such")
    _say_copies(folder, dataset, caches)
    if classes:
        text = f"{(dataset.targets >= 0).sum():,} images in {len(classes)} classes"
        say_once(f"labels, for evaluation only: {text}, such as {', '.join(classes[:3])}")
    return dataset


def _say_copies(folder: Path, dataset, caches: Path) -> None:
    if groups := dataset.duplicates():
        lines = ("\t".join(dataset.name(row) for row in rows) for rows in groups)
        listed = write_list(caches, folder, "duplicates", lines)
        copies = sum(map(len, groups)) - len(groups)
        say_once(f"{folder}: {copies:,} images are exact copies of others (listed in {listed})")


def list_pictures(folder: Path, on_error: str = "stop") -> tuple[list[str], Counter[str], dict[str, str]]:
    """The image files in a folder and those inside it: sorted names within it.

    Also what is left out: the number of other files of each ending, of links to folders and of folders of the
    system; and each folder that cannot be listed, with the reason. Hidden files and folders do not count.
    Raises UserError for a folder that is missing, cannot be listed or has no image, and with on_error `stop`
    if a folder inside it cannot be listed."""
    place, endings = str(folder.absolute()), image_endings()
    if not os.path.isdir(folder):
        raise UserError(f"{place} is missing or not a folder: give the folder of your images")
    found, others, errors = [], Counter(), []
    for here, folders, files in os.walk(place, onerror=errors.append):
        others["links to folders"] += sum(os.path.islink(os.path.join(here, name)) for name in folders)
        others["folders of the system"] += sum(name.lower() in OF_SYSTEMS for name in folders)
        folders[:] = [name for name in folders if name[0] != "." and name.lower() not in OF_SYSTEMS]
        within = os.path.relpath(here, place)
        files = [os.path.normpath(os.path.join(within, name)) for name in files if name[0] != "."]
        images = [name for name in files if name.lower().endswith(endings)]
        found += images
        others.update(_kind(name) for name in set(files).difference(images))
    others = +others  # without zeros
    unlisted = {os.path.relpath(error.filename, place): error.strerror for error in errors}
    if unlisted and (on_error == "stop" or os.curdir in unlisted):
        name, reason = next(iter(unlisted.items()))
        remedy = "make it readable, or set on_error=skip to leave out folders inside"
        raise UserError(f"{Path(place, name)} cannot be listed ({reason}): {remedy}")
    if not found:
        told = f"{_counts(others)}, but no image that Pillow reads" if others else "no file"
        raise UserError(f"{place} holds {told}: give another folder; links to folders are not followed")
    return sorted(found, key=os.fsencode), others, unlisted


def _counts(others: Counter[str]) -> str:
    return ", ".join(f"{number:,} {kind}" for kind, number in others.most_common(8))


def _kind(name: str) -> str:
    ending = os.path.splitext(name)[1].lower()
    return ending if re.fullmatch(r"\.\w{1,8}", ending, re.ASCII) else "of other kinds"


def _is_within(path: str | Path, folder: str | Path) -> bool:
    """Whether a path leads into a folder, by links or without."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _classes(own, labels: dict[str, str]) -> list[str]:
    """The classes of both splits together, numbers by size before words; [] for fewer than two."""
    if own.labels == "none":
        return []
    found = set(labels.values())
    for path in {own.get("path"), own.get("val_path")} - {None}:
        with suppress(UserError):  # missing, or not in the table: an error only where that split is read
            found |= set(read_labels(Path(path), list_pictures(Path(path), "skip")[0], own.labels).values())
    if len(found) < 2:
        say_once(f"warning: folder.labels {own.labels} gives fewer than two classes {found}: not used")
        return []
    return in_order(found)
