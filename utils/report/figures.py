"""Figures of a run: curves, confusion matrix, neighbors, prototypes. PNG files, drawn without a display."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from utils.console import warnings_ignored
from utils.distributed import from_main, main_only
from utils.evaluate.clustering import clustering_warnings, evaluate_clusters, map_clusters
from utils.evaluate.steps import compare_steps, step_warnings
from utils.report import canvas
from utils.report.canvas import BLUE, DPI, FAINT, INK, labels_of, save_png
from utils.report.image_grid import draw_grid
from utils.report.log import read_epochs

LINE_COLORS = [BLUE, "#e0802b", "#4a9a5b", "#8d6bb8", FAINT]
MAX_NUMBERED_CLASSES, MAX_NAMED_CLASSES = 20, 60  # of a confusion matrix with numbers and with names
ROWS_PER_PAGE = 50  # prototypes
TIGHT = {"bbox_inches": "tight", "pad_inches": 0.12}


@canvas.own_settings()
def curves_figure(log_path: Path):
    """The metrics of a run's `log.jsonl`, None if no epoch has a number.

    `train/loss` and `val/loss` are two lines of one panel, loss."""
    from matplotlib.ticker import MaxNLocator

    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}  # metric -> split -> (epoch, value)
    for epoch, metrics in read_epochs(log_path).items():
        for name, value in metrics.items():
            split, _, metric = name.rpartition("/")
            panels.setdefault(metric, {}).setdefault(split, []).append((epoch, value))
    if not panels:
        return None
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = canvas.new_figure(0.4 + 2.9 * columns, 0.6 + 2.0 * rows, layout="constrained")
    axes, colors, legend = None, {}, {}
    for i, (metric, lines) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, i + 1, sharex=axes)
        for split, points in lines.items():
            color = colors.setdefault(split, LINE_COLORS[len(colors) % len(LINE_COLORS)])
            style = {"marker": "o" if len(points) <= 20 else None, "markersize": 3, "linewidth": 1.4}
            (legend[split],) = axes.plot(*zip(*points, strict=True), color=color, **style)
        canvas.style_panel(axes, metric)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if i // columns == rows - 1:
            axes.set_xlabel("epoch", fontsize=8, color=INK)
    figure.suptitle("Metrics by epoch", x=0.01, ha="left", fontsize=10, color=INK)
    legend.pop("", None)  # metrics of no split
    figure.legend(legend.values(), legend, loc="upper right", ncols=5, fontsize=8, frameon=False)
    return figure


@warnings_ignored()
def confusion_matrix(targets: Sequence[int], predicted: Sequence[int], num_classes: int) -> np.ndarray:
    """Share of each class (row) that is in the cluster matched to each class (column).

    targets, predicted: (N,). Images of target -1 (unknown) are left out. A predicted -1 (a cluster without a
    class) counts in one more column, if needed. Returns float64 (C, C) or (C, C + 1), whose rows sum to 1, or
    to 0 for a class without images."""
    from sklearn.metrics import confusion_matrix as count_pairs

    targets, predicted = np.asarray(targets), np.asarray(predicted)
    known = targets >= 0
    columns = np.where(predicted < 0, num_classes, predicted)
    labels = range(num_classes + 1)
    shares = count_pairs(targets[known], columns[known], labels=labels, normalize="true")[:num_classes]
    return shares if shares[:, -1].any() else shares[:, :-1]


@canvas.own_settings()
def matching_figure(dataset, predictions: Tensor, metrics: Mapping):
    """The confusion matrix of clusters (N,) matched by `metrics["hungarian_match"]`, None without labels.

    Labels lie outside of the figure: save it TIGHT."""
    from matplotlib.colors import PowerNorm

    if "hungarian_match" not in metrics:
        return None
    matched = map_clusters(predictions, metrics["hungarian_match"])
    matrix = confusion_matrix(dataset.targets, matched, len(dataset.classes))
    num_rows, num_columns = matrix.shape
    cell = int(np.clip(round(840 / num_rows), 1, max(52, 240 // num_rows)))  # whole pixels: no class is lost
    width, height = cell * num_columns / DPI, cell * num_rows / DPI  # inches
    are_named = num_rows <= MAX_NAMED_CLASSES
    names = [canvas.drawable(name, 24) for name in [*dataset.classes, "unmatched"]] if are_named else []
    figure = canvas.new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    gamma = 1 if are_named else 0.5  # 0.5: a cell of 1 % is still visible
    style = {"cmap": "Blues", "interpolation": "nearest", "aspect": "auto", "zorder": 2.6}
    image = axes.imshow(100 * matrix, norm=PowerNorm(gamma, vmin=0, vmax=100), **style)
    bar = figure.colorbar(image, cax=figure.add_axes((1 + 0.15 / width, 0, 0.12 / width, 1)))
    bar.set_label("share of the class (%)", fontsize=8, color=INK)
    axes.set_title("Confusion matrix", fontsize=10, color=INK, loc="left", pad=8)
    axes.set_ylabel("class", fontsize=8, color=INK)
    extra = " (last column: unmatched)" if num_columns > num_rows else ""
    axes.set_xlabel("class matched to the cluster" + extra, fontsize=8, color=INK)
    axes.spines[:].set_position(("outward", 0.6))  # with zorder: the frame hides no cell
    canvas.quiet(axes)
    canvas.quiet(bar.ax)

    if are_named:
        style = {"fontsize": 8 if num_rows <= MAX_NUMBERED_CLASSES else 6, "parse_math": False}
        axes.set_yticks(range(num_rows), names[:num_rows], **style)
        axes.set_xticks(range(num_columns), names[:num_columns], rotation=90, **style)
        axes.tick_params(length=0)
    if num_rows <= MAX_NUMBERED_CLASSES:
        for (row, column), share in np.ndenumerate(100 * matrix):
            color = "white" if share > 55 else INK if share >= 0.5 else "#c4c4c4"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=8, color=color)
    return figure


@main_only
def plot_neighbors(dataset, neighbors: np.ndarray, path: Path, anchors: int = 10, columns: int = 11) -> None:
    """Draw some images (anchors, evenly spaced over the data set), each with its nearest neighbors.

    neighbors: (N, T + 1) row numbers, column 0 the image itself; the first `columns` are shown. A neighbor of
    another class, where both labels are known, has a red frame."""
    number, labels = min(anchors, len(dataset)), np.array(labels_of(dataset), dtype=object)
    middles = ((np.arange(number) + 0.5) * len(dataset) / number).astype(int)  # (A,)
    others, own = neighbors[middles, 1:columns], labels[middles, None]  # (A, T), (A, 1)
    known = (own != "") & (labels[others] != "")  # (A, T)
    wrong = known & (own != labels[others])  # (A, T)
    rows = []
    for anchor, nearest, is_wrong in zip(middles, others, wrong, strict=True):
        caption = f"image {dataset.name(anchor)}" + (f": {labels[anchor]}" if labels[anchor] else "")
        rows.append((caption, [anchor, *nearest], nearest[is_wrong]))
    note = "Blue: the image; then its neighbors, nearest first."
    if known.any():
        note += f" Red: another class ({wrong.sum()} of {known.sum()} here)."
    draw_grid(dataset, "Nearest neighbors", note, rows, path)


def plot_prototypes(dataset, prototypes: Mapping, names: Mapping[int, str], path: Path) -> list[Path]:
    """Draw one row per cluster: its prototype, then its companions. Returns the files written.

    prototypes: cluster -> row numbers, the prototype first. names: cluster -> caption. More than 50 clusters
    fill several pages, `prototypes-1.png` and so on."""
    rows = [(names[k], images, ()) for k, images in prototypes.items()]
    pages = [rows[i : i + ROWS_PER_PAGE] for i in range(0, len(rows), ROWS_PER_PAGE)]
    note, paths = "Blue: the cluster's prototype; then others of its most confident images.", []
    for number, page in enumerate(pages, start=1):
        is_alone = len(pages) == 1
        title = "Prototypes" if is_alone else f"Prototypes, page {number} of {len(pages)}"
        paths.append(path if is_alone else path.with_stem(f"{path.stem}-{number}"))
        draw_grid(dataset, title, note, page, paths[-1])
    return paths


@main_only
def draw_curves(folder: Path) -> None:
    """Write curves.png of the log in a run's folder."""
    save_png(curves_figure(folder / "log.jsonl"), folder / "curves.png")


@main_only
def draw_confusion(folder: Path, dataset, predictions: Tensor, metrics: Mapping) -> bool:
    """Write confusion_matrix.png into a run's folder, if there are labels; returns whether there are."""
    return save_png(matching_figure(dataset, predictions, metrics), folder / "confusion_matrix.png", **TIGHT)


def conclude(run, title: str, val_set, step_1, kmeans, **steps: Tensor) -> None:
    """Log the results on the val split, draw curves.png and, with labels, confusion_matrix.png; then finish.

    run: has `log.final(title, metrics)`, `log.warn(text)`, the folder `path`, and `finish(text)`. steps: the
    probabilities (N, K) of this step after those before it. step_1, kmeans: for `compare_steps`; step_1 is
    None if its backbone is not there."""
    probabilities = list(steps.values())[-1]
    metrics = evaluate_clusters(probabilities, val_set.targets)
    if step_1 is not None:
        metrics |= from_main(compare_steps, step_1, kmeans, steps, val_set.targets)
    run.log.final(title, metrics)
    for warning in (*clustering_warnings(metrics), *step_warnings(metrics)):
        run.log.warn(warning)
    drawn = draw_confusion(run.path, val_set, probabilities.argmax(dim=1), metrics)
    draw_curves(run.path)
    run.finish("the model, curves.png and confusion_matrix.png" if drawn else "the model and curves.png")
