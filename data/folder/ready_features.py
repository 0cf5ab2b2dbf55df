"""Features that someone else has computed, with a table that names the image of each."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch

from data.dataset import FeatureDataset, StreamedDataset
from data.folder.labels import in_order, read_labels
from utils.errors import UserError
from utils.storage.arrays import open_features
from utils.storage.tables import read_table


def read_features(own) -> FeatureDataset:
    """The rows of `folder.features` (N, D) for the images that `folder.files` names, in its order; the images
    lie in `folder.path` and are read for figures alone. own: the config's `folder`.

    Raises UserError for files that do not fit each other, and as `read_labels`."""
    with np.errstate(over="ignore"):  # then infinite
        rows = np.array(open_features(own.features), dtype=np.float32, order="C")
    features = torch.from_numpy(rows)
    names = [name for (name,) in read_table(Path(own.files), ("path",), errors="surrogateescape")]
    if len(names) != len(features):
        counts = f"{own.features} has {len(features)} rows, {own.files} names {len(names)} images"
        raise UserError(f"{counts}: give a table with a line for each row, in the same order")
    lengths = features.norm(dim=1)
    if bad := (~lengths.isfinite() | (lengths == 0)).nonzero()[:, 0].tolist():
        text = f"{own.features}: {len(bad)} of {len(features)} rows are NaN, too large or all zero"
        raise UserError(f"{text}, such as row {bad[0]} (counted from 0): mend them, or leave them out")
    folder = Path(own.get("path", "")).absolute()
    if "path" in own and (missing := [name for name in names if not os.path.isfile(folder / name)]):
        text = f"{own.files}: {len(missing)} of {len(names)} images are not in {folder}, such as {missing[0]}"
        raise UserError(f"{text}: give the folder in which the images lie as folder.path=...")
    labels = read_labels(folder, names, own.labels)
    classes = in_order(set(labels.values()))
    numbers = {name: number for number, name in enumerate(classes)}
    targets = torch.tensor([numbers.get(labels.get(name), -1) for name in names]) if classes else None
    digests = np.array([hashlib.sha256(row).hexdigest().encode() for row in features.numpy()])
    files = np.array(list(map(os.fsencode, names)))
    source = StreamedDataset(folder, files, digests, targets, classes, side=256)
    return FeatureDataset(features, targets, classes, source)
