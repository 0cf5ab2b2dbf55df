"""Outputs of eval.py: CSV, cluster names, figures."""

from argparse import Namespace
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from easydict import EasyDict
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
from utils.storage.files import write_whole
from utils.storage.tables import plain, read_table, table_bytes

CSV_COLUMNS = ("path", "cluster", "confidence", "second_cluster", "second_confidence", "name", "label")


def beside(model: Path, name: str) -> Path:
    """The path of an output: beside the model, named after it unless it is a stage's `model.pth.tar`.

    `scan_stl-10.pth.tar` and `prototypes.png` give `scan_stl-10-prototypes.png`."""
    stem = model.name.removesuffix(".tar").removesuffix(".pth")
    return model.with_name(name if model.name == MODEL else f"{stem}-{name}")


def about_run(cfg: EasyDict, model: Path, images: str) -> dict[str, Any]:
    """What the report says of a model's run: `title`, `summary`, and `logs` of the stages up to its own."""
    crop_size = cfg.transformation_kwargs.crop_size
    epochs, batch_size = (cfg.get(key, "?") for key in ("epochs", "batch_size"))
    folders = {"pretext": cfg.pretext_dir, "scan": cfg.scan_dir, STAGES[cfg.setup].folder: model.parent}
    logs = {stage: log for stage, folder in folders.items() if (log := Path(folder, "log.jsonl")).is_file()}
    summary = {
        "images": images,
        "model": f"{model} ({cfg.setup})",
        "trained on": cfg.folder.get("path", "") if cfg.train_db_name == "folder" else cfg.train_db_name,
        "network": f"{cfg.backbone}, width {cfg.model_kwargs.width}, {crop_size} px",
        "training": f"{epochs} epochs, batches of {batch_size}, seed {cfg.seed}",
        "made": datetime.now().strftime("%Y-%m-%d %H:%M"),
    }
    return {"title": cfg.run_name, "summary": summary, "logs": logs}


def write_outputs(asked: Namespace, cfg: EasyDict, images: str, clustering: Clustering) -> list[Path]:
    """Write what eval.py's command line asks for, and the confusion matrix. Returns the figures.

    cfg: of the model's training. images: what they are, in words."""
    dataset, probabilities, features, metrics, names = clustering
    model, pictures = asked.model, []
    try:
        path = beside(model, "confusion_matrix.png")
        if save_png(matching_figure(dataset, probabilities.argmax(dim=1), metrics), path, **TIGHT):
            pictures.append(path)
            say(f"confusion matrix: {path}")
    except RunError as error:  # nobody asked for it: a model may lie in a folder that cannot be written to
        say(f"no confusion matrix: {error}")
    if asked.predict or asked.out:
        path = asked.out or beside(model, "predictions.csv")
        write_predictions(path, dataset, probabilities, names)
        say(f"table of {len(dataset)} images: {path}")
    if asked.report:
        path = beside(model, "report.html")
        neighbors = nearest(features, NEIGHBORS_SHOWN, cfg.knn_backend)
        write_report(path, clustering, neighbors, about_run(cfg, model, images))
        say(f"page to look at: {path}")
    if asked.visualize_prototypes:
        called = {k: dataset.classes[label] for k, label in metrics.get("hungarian_match", [])} | dict(names)
        chosen = prototypes(probabilities, features)
        captions = {k: f"cluster {k}: {called[k]}" if k in called else f"cluster {k}" for k in chosen}
        pages = plot_prototypes(dataset, chosen, captions, beside(model, "prototypes.png"))
        say(f"prototypes: {pages[0]}" + (f" to {pages[-1].name}" if len(pages) > 1 else ""))
        pictures += pages
    return pictures


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

    Warns if the file is older than the model. Raises UserError for a file that does not fit."""
    path = beside(model, "names.csv")
    if not path.exists():
        return {}
    names, numbers = {}, {str(k): k for k in range(num_clusters)}
    for cell, name in read_table(path, ("cluster", "name")):
        if (cluster := numbers.get(plain(cell))) is None:
            raise UserError(f"{path}: has cluster {cell!r}, which should be 0 to {num_clusters - 1}")
        if (name := name.strip()) and names.setdefault(cluster, name) != name:
            raise UserError(f"{path}: cluster {cluster} has two names, {names[cluster]} and {name}")
    if names and path.stat().st_mtime < model.stat().st_mtime:
        say(f"warning: {path} is older than {model.name}: a new training may have renumbered the clusters")
    return names
