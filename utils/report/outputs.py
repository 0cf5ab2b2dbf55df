"""What a person takes away from an evaluation: a table of which image is in which cluster, and names for clusters."""

import csv
import io
import os
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from easydict import EasyDict
from torch import Tensor

from utils.config import load_config
from utils.console import say
from utils.errors import RunError, UserError
from utils.evaluate.clustering import prototypes
from utils.evaluate.label_free_report import nearest
from utils.report.figures import plot_matching, plot_prototypes
from utils.report.page import NEIGHBORS as NEIGHBORS_SHOWN
from utils.report.page import write_report
from utils.stages import MODEL, STAGES
from utils.storage.files import write_whole

COLUMNS = ("path", "cluster", "confidence", "second_cluster", "second_confidence", "name", "label")


def beside(model: Path, name: str) -> Path:
    """`name` beside the model, so that the models of one folder have each its own: `scan_stl-10.pth.tar` and
    `prototypes.png` give `scan_stl-10-prototypes.png`, a stage's `model.pth.tar` gives `prototypes.png`."""
    stem = model.name.removesuffix(".tar").removesuffix(".pth")
    return model.with_name(name if model.name == MODEL else f"{stem}-{name}")


def config_of(model: Path, cfg: EasyDict) -> EasyDict:
    """The config that a model was trained with, which lies beside it; else cfg."""
    path = model.with_name("config.yml")
    with suppress(UserError):
        return load_config(os.devnull, path) if path.is_file() else cfg
    return cfg


def about_run(cfg: EasyDict, model: Path, images: str) -> dict[str, Any]:
    """What the report says of the run that made a model: `title`, `summary`, and `logs` of the stages up to its own."""
    folders = {"pretext": cfg.pretext_dir, "scan": cfg.scan_dir, STAGES[cfg.setup].folder: model.parent}
    if cfg.setup == "scan":
        folders = {"pretext": cfg.pretext_dir, "scan": model.parent}
    logs = {stage: Path(folder, "log.jsonl") for stage, folder in folders.items()}
    summary = {
        "images": images,
        "model": f"{model} ({cfg.setup})",
        "trained on": cfg.folder.get("path", "") if cfg.train_db_name == "folder" else cfg.train_db_name,
        "network": f"{cfg.backbone}, width {cfg.model_kwargs.width}, {cfg.transformation_kwargs.crop_size} px",
        "training": f"{cfg.get('epochs', '?')} epochs, batches of {cfg.get('batch_size', '?')}, seed {cfg.seed}",
        "made": datetime.now().strftime("%Y-%m-%d %H:%M"),
    }
    return {
        "title": cfg.run_name,
        "summary": summary,
        "logs": {k: log for k, log in logs.items() if log.is_file()},
    }


def write_results(
    asked: Namespace,
    cfg: EasyDict,
    images: str,
    dataset,
    probabilities: Tensor,
    features: Tensor,
    metrics: Mapping[str, Any],
    names: Mapping[int, str],
) -> list[Path]:
    """Write beside the model the confusion matrix, where labels give one, and what was asked for on eval.py's command
    line, and say where; returns the pictures.

    cfg: that of the model's training. images: what they are. probabilities: (N, K), features: (N, D), not normalised.
    """
    pictures, path = [], beside(asked.model, "confusion_matrix.png")
    try:
        pictures += plot_matching(dataset, probabilities.argmax(dim=1), metrics, path)
    except RunError as error:  # the figures are what was asked for
        say(f"no confusion matrix: {error}")
    say_written("confusion matrix", pictures)
    if asked.predict or asked.out:
        out = asked.out or beside(asked.model, "predictions.csv")
        write_predictions(out, dataset, probabilities, names)
        say_written(f"table of {len(dataset)} images", [out])
    if asked.report:
        page = beside(asked.model, "report.html")
        neighbors = nearest(features, NEIGHBORS_SHOWN, cfg.knn_backend)
        about = about_run(cfg, asked.model, images)
        shown = {"metrics": metrics, "names": names, "duplicates": dataset.duplicates(), **about}
        write_report(page, dataset, probabilities, features, neighbors, **shown)
        say_written("page to look at", [page])
    if asked.visualize_prototypes:
        chosen = prototypes(probabilities, features)
        called = captions(probabilities.shape[1], names, metrics, dataset.classes)
        pages = plot_prototypes(dataset, chosen, called, beside(asked.model, "prototypes.png"))
        say_written("prototypes", pages)
        pictures += pages
    return pictures


def say_written(what: str, paths: list[Path]) -> None:
    if paths:
        say(f"{what}: {paths[0]}" + (f" to {paths[-1].name}" if len(paths) > 1 else ""))


def write_predictions(path: Path, dataset, probabilities: Tensor, names: Mapping[int, str]) -> None:
    """Write a CSV file with a row for each image, in the order of the data set.

    probabilities: (N, K). `cluster` is the likeliest one, from 0, `confidence` its probability; `name` and `label` are
    empty where none is given or known. Names of files stand byte by byte as the system has them."""
    best = probabilities.topk(2, dim=1)  # (N, 2) values and clusters
    targets = [-1] * len(dataset) if dataset.targets is None else dataset.targets.tolist()
    rows = zip(best.values.tolist(), best.indices.tolist(), targets, strict=True)
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row, ((confidence, next_best), (cluster, second), target) in enumerate(rows):
        label = dataset.classes[target] if target >= 0 else ""
        shares = f"{confidence:.6f}", f"{next_best:.6f}"
        table.writerow(
            [dataset.name(row), cluster, shares[0], second, shares[1], names.get(cluster, ""), label]
        )
    write_whole({Path(path): text.getvalue().encode(errors="surrogateescape")})


def names_for(model: Path, num_clusters: int) -> dict[int, str]:
    """The names that a person gave to a model's clusters, in `names.csv` beside it; says so if they are older than it.

    Raises UserError as `read_names`."""
    path = beside(model, "names.csv")
    names = read_names(path, num_clusters)
    if names and path.stat().st_mtime < model.stat().st_mtime:
        say(
            f"warning: {path} is older than {model.name}: after a new training the numbers mean other clusters"
        )
    return names


def read_names(path: Path, num_clusters: int) -> dict[int, str]:
    """Names by cluster, from a CSV file with columns `cluster` and `name`; {} without a file.

    Raises UserError for a file without them, for clusters that there are not, and for two names of one."""
    try:
        rows = list(
            csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        )
    except FileNotFoundError:
        return {}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV in UTF-8 ({error})") from error
    names = {}
    for row in rows:
        cluster, name = (row.get("cluster") or "").strip(), (row.get("name") or "").strip()
        is_cluster = cluster.isdecimal() and int(cluster) < num_clusters
        if not is_cluster or row.get("name") is None or None in row:  # None: what a row has beyond the header
            raise UserError(
                f"{path}: should have the columns cluster, 0 to {num_clusters - 1}, and name, but has {dict(row)}"
            )
        if name and names.setdefault(int(cluster), name) != name:
            raise UserError(f"{path}: cluster {cluster} has two names, {names[int(cluster)]} and {name}")
    return names


def captions(
    num_clusters: int, names: Mapping[int, str], metrics: Mapping, classes: list[str]
) -> dict[int, str]:
    """`cluster 3`, with the name that a person gave it, else with the class that it was matched to where labels are
    known."""
    matched = {cluster: classes[label] for cluster, label in metrics.get("hungarian_match", [])}
    called = matched | dict(names)
    return {k: f"cluster {k}: {called[k]}" if k in called else f"cluster {k}" for k in range(num_clusters)}
