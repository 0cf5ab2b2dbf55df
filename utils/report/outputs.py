"""Outputs of eval.py: CSV, cluster names, figures."""

import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from easydict import EasyDict
from PIL import Image, ImageShow
from torch import Tensor

from utils.console import say
from utils.errors import RunError, UserError
from utils.evaluate.clustering import prototypes
from utils.evaluate.label_free_report import nearest
from utils.report.canvas import labels_of, save_png
from utils.report.cluster_cards import Clustering
from utils.report.figures import TIGHT, matching_figure, plot_prototypes
from utils.report.page import NEIGHBORS_SHOWN, write_report
from utils.stages import MODEL, STAGES
from utils.storage.files import read_manifest, sha256_of, write_whole
from utils.storage.tables import plain, read_table, table_bytes

PAGE, TABLE = "report.html", "predictions.csv"
CSV_COLUMNS = ("path", "cluster", "confidence", "second_cluster", "second_confidence", "name", "label")


def beside(model: Path, name: str) -> Path:
    """The path of an output: beside the model, named after it unless it is a stage's `model.pth.tar`.

    `scan_stl-10.pth.tar` and `prototypes.png` give `scan_stl-10-prototypes.png`."""
    stem = model.name.removesuffix(".tar").removesuffix(".pth")
    return model.with_name(name if model.name == MODEL else f"{stem}-{name}")


def place_of(asked: Namespace, name: str) -> Path:
    """The path of an output: that of `--out` or `--report FILE`, else beside the page, which unless its FILE
    is given lies beside the model."""
    page = asked.report if isinstance(asked.report, Path) else beside(asked.model, PAGE)
    given = {PAGE: page, TABLE: asked.out}.get(name)
    return given or beside(page.with_name(asked.model.name), name)


def check_places(asked: Namespace) -> None:
    """Raise UserError if the place of an output is no file, or one that cannot be written."""
    for option, name, is_asked in (
        ("--report", PAGE, asked.report or asked.visualize_prototypes),  # decides where the table goes, too
        ("--out", TABLE, asked.out or asked.predict),
    ):
        path = place_of(asked, name)
        is_file = path.is_file() or not path.exists()  # a device would be replaced by a file
        is_kind = name == TABLE or path.suffix == ".html"  # no slip overwrites a model
        if is_asked and not (is_file and path.parent.is_dir() and is_kind):
            raise UserError(f"{option} {path}: give a file such as {name}, in a folder that exists")
        if is_asked and not os.access(path.parent, os.W_OK):
            raise UserError(f"{path.parent} may not be written to: give another place with {option} FILE")


def about_run(cfg: EasyDict, model: Path, images: str) -> dict[str, Any]:
    """What the report says of a model's run: `title`, `summary`, and `logs` of the stages up to its own."""
    crop_size = cfg.transformation_kwargs.crop_size
    epochs, batch_size = (cfg.get(key, "?") for key in ("epochs", "batch_size"))
    width = f"width {cfg.model_kwargs.width}, " if cfg.backbone.startswith("resnet") else ""
    summary = {
        "images": images,
        "model": f"{model} ({cfg.setup})",
        "trained on": cfg.folder.get("path", "") if cfg.train_db_name == "folder" else cfg.train_db_name,
        "network": f"{cfg.backbone}, {width}{crop_size} px",
        "training": f"{epochs} epochs, batches of {batch_size}, seed {cfg.seed}",
        "made": datetime.now().strftime("%Y-%m-%d %H:%M"),
    }
    return {"title": cfg.run_name, "summary": summary, "logs": logs_of(cfg, model), "mark": model_mark(model)}


def logs_of(cfg: EasyDict, model: Path) -> dict[str, Path]:
    """The logs of a model's stage and of those before it, unless the model there is not the one that the
    manifest names: another run may have the same name."""
    stage, path = STAGES[cfg.setup].folder, model
    logs = {stage: model.with_name("log.jsonl")}
    while stage != "pretext":
        named = (read_manifest(path) or {}).get("made_from", {}).get(MODEL)
        stage = STAGES[stage].starts_from
        path = Path(cfg[f"{stage}_dir"], MODEL)
        if named and path.is_file() and sha256_of(path) != named:
            break
        logs = {stage: path.with_name("log.jsonl"), **logs}
    return {stage: log for stage, log in logs.items() if log.is_file()}


def model_mark(model: Path) -> str:
    """What stands in names.csv for the model that the names were given for."""
    return f"sha256:{sha256_of(model)[:12]}"  # text for a spreadsheet, too


def write_outputs(asked: Namespace, cfg: EasyDict, images: str, clustering: Clustering) -> list[Path]:
    """Write what eval.py's command line asks for, and the confusion matrix. Returns the figures.

    cfg: of the model's training. images: what they are, in words."""
    dataset, probabilities, features, metrics, names = clustering
    pictures = []
    try:
        path = place_of(asked, "confusion_matrix.png")
        if save_png(matching_figure(dataset, probabilities.argmax(dim=1), metrics), path, **TIGHT):
            pictures.append(path)
            say(f"confusion matrix: {path}")
    except RunError as error:  # nobody asked for it: a model may lie in a folder that cannot be written to
        say(f"no confusion matrix: {error}")
    if asked.predict or asked.out:
        path = place_of(asked, TABLE)
        write_predictions(path, dataset, probabilities, names)
        say(f"table of {len(dataset)} images: {path}")
    if asked.report:
        path = place_of(asked, PAGE)
        neighbors = nearest(features, NEIGHBORS_SHOWN, cfg.knn_backend)
        write_report(path, clustering, neighbors, about_run(cfg, asked.model, images))
        say(f"page to look at: {path}")
    if asked.visualize_prototypes:
        called = {k: dataset.classes[label] for k, label in metrics.get("hungarian_match", [])} | dict(names)
        chosen = prototypes(probabilities, features)
        captions = {k: f"cluster {k}: {called[k]}" if k in called else f"cluster {k}" for k in chosen}
        pages = plot_prototypes(dataset, chosen, captions, place_of(asked, "prototypes.png"))
        say(f"prototypes: {pages[0]}" + (f" to {pages[-1].name}" if len(pages) > 1 else ""))
        pictures += pages
    return pictures


def show(pictures: Iterable[Path]) -> None:
    """Open pictures in the system's image viewer, or say that no window can be opened."""
    displays = [os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")]  # X and Wayland only
    can_open = any(displays) or sys.platform in ("win32", "darwin")
    for path in pictures:
        with Image.open(path) as picture:
            if not (can_open and ImageShow.show(picture)):
                say(f"no window can be opened here, without display or image viewer: look at {path}")


def write_predictions(path: Path, dataset, probabilities: Tensor, names: Mapping[int, str]) -> None:
    """Write a CSV file with a row for each image, in the order of the data set.

    probabilities: (N, K). `confidence` is the probability of the likeliest `cluster`, from 0. `name` and
    `label` are empty where none is known. File names keep their bytes, whatever their encoding."""
    shares, clusters = (values.T.tolist() for values in probabilities.topk(2, dim=1))  # 2 lists of N each
    first, second = ([f"{share:.6f}" for share in column] for column in shares)
    paths, called = map(dataset.name, range(len(dataset))), (names.get(k, "") for k in clusters[0])
    columns = paths, clusters[0], first, clusters[1], second, called, labels_of(dataset)
    write_whole({path: table_bytes([CSV_COLUMNS, *zip(*columns, strict=True)])})


def read_names(model: Path, num_clusters: int) -> dict[int, str]:
    """The names in `names.csv` beside the model, columns `cluster` and `name`; {} without that file.

    Warns if its column `model`, which the page writes, names other weights. Raises UserError for a file that
    does not fit."""
    path = beside(model, "names.csv")
    if not path.exists():
        return {}
    names, numbers, made_for = {}, {str(k): k for k in range(num_clusters)}, set()
    for cell, name, mark in read_table(path, ("cluster", "name"), optional=("model",)):
        if (cluster := numbers.get(plain(cell))) is None:
            raise UserError(f"{path}: has cluster {cell!r}, which should be 0 to {num_clusters - 1}")
        if (name := name.strip()) and names.setdefault(cluster, name) != name:
            raise UserError(f"{path}: cluster {cluster} has two names, {names[cluster]} and {name}")
        made_for.add(mark.strip())
    if names and made_for - {"", model_mark(model)}:
        say(f"warning: {path} was made for another model: a new training may have renumbered the clusters")
    return names
