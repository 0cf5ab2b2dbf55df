"""Pictures of a run: curves, confusion matrix, neighbors, prototypes. PNG files, drawn without a display."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from utils.evaluate.clustering import map_clusters
from utils.report.canvas import BLUE, DPI, FAINT, INK, RED, new_figure, quiet, save_png, shorten, style_panel
from utils.report.image_grid import Row, draw_grid
from utils.report.log import read_epochs

LINE_COLORS = [BLUE, "#e0802b", "#4a9a5b", "#8d6bb8", FAINT]
MAX_NUMBERED_CLASSES, MAX_NAMED_CLASSES = 20, 60  # of a confusion matrix with numbers and with names
ROWS_PER_PAGE = 50  # prototypes
TIGHT = {"bbox_inches": "tight", "pad_inches": 0.12}


def plot_curves(log_path: Path, path: Path) -> None:
    """Draw the metrics of a run's `log.jsonl`. Writes nothing if no epoch has a number."""
    if figure := curves_figure(log_path):
        save_png(figure, path)


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
    splits = list(dict.fromkeys(split for lines in panels.values() for split in lines))

    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(0.4 + 2.9 * columns, 0.6 + 2.0 * rows, layout="constrained")
    axes, legend = None, {}
    for i, (metric, lines) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, i + 1, sharex=axes)
        for split, points in lines.items():
            color = LINE_COLORS[splits.index(split) % len(LINE_COLORS)]
            style = {"marker": "o" if len(points) <= 20 else None, "markersize": 3, "linewidth": 1.4}
            (legend[split],) = axes.plot(*zip(*points, strict=True), color=color, **style)
        style_panel(axes, metric)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if i // columns == rows - 1:
            axes.set_xlabel("epoch", fontsize=8, color=INK)
    figure.suptitle("Metrics by epoch", x=0.01, ha="left", fontsize=10, color=INK)
    named = [split for split in splits if split]
    lines = [legend[split] for split in named]
    figure.legend(lines, named, loc="upper right", ncols=5, fontsize=8, frameon=False)
    return figure


def confusion_matrix(targets: Sequence[int], predicted: Sequence[int], num_classes: int) -> np.ndarray:
    """Share of each class (row) that is in the cluster matched to each class (column).

    targets, predicted: (N,) classes below num_classes. Images of target -1 (unknown) are left out. A
    predicted -1 (a cluster without a class) counts in one more column, which exists only if needed. Returns
    float64 (C, C) or (C, C + 1). A row sums to 1, or to 0 for a class without images."""
    from sklearn.metrics import confusion_matrix as count_pairs

    targets, predicted = np.asarray(targets), np.asarray(predicted)
    known = targets >= 0
    columns = np.where(predicted < 0, num_classes, predicted)
    labels = range(num_classes + 1)
    shares = count_pairs(targets[known], columns[known], labels=labels, normalize="true")[:num_classes]
    return shares if shares[:, -1].any() else shares[:, :-1]


def confusion_figure(matrix: np.ndarray, classes: Sequence[str]):
    """What `confusion_matrix` returns, as a figure; classes: C names. Labels lie outside: save it TIGHT."""
    from matplotlib.colors import PowerNorm

    num_rows, num_columns = matrix.shape
    cell = int(np.clip(round(840 / num_rows), 1, max(52, 240 // num_rows)))  # whole pixels: no class is lost
    width, height = cell * num_columns / DPI, cell * num_rows / DPI  # inches
    figure = new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    gamma = 1 if num_rows <= MAX_NAMED_CLASSES else 0.5  # 0.5: a cell of 1 % is still visible
    norm = PowerNorm(gamma, vmin=0, vmax=100)
    style = {"cmap": "Blues", "interpolation": "nearest", "aspect": "auto", "zorder": 2.6}
    image = axes.imshow(100 * matrix, norm=norm, **style)
    bar = figure.colorbar(image, cax=figure.add_axes((1 + 0.15 / width, 0, 0.12 / width, 1)))
    bar.set_label("share of the class (%)", fontsize=8, color=INK)
    axes.set_title("Confusion matrix", fontsize=10, color=INK, loc="left", pad=8)
    axes.set_ylabel("class", fontsize=8, color=INK)
    extra = " (last column: unmatched)" if num_columns > num_rows else ""
    axes.set_xlabel("class matched to the cluster" + extra, fontsize=8, color=INK)
    axes.spines[:].set_position(("outward", 0.6))  # with zorder: the frame hides no cell
    quiet(axes)
    quiet(bar.ax)

    if num_rows <= MAX_NAMED_CLASSES:
        names = [shorten(name, 24) for name in [*classes, "unmatched"]]
        style = {"fontsize": 8 if num_rows <= MAX_NUMBERED_CLASSES else 6, "parse_math": False}
        axes.set_yticks(range(num_rows), names[:num_rows], **style)
        axes.set_xticks(range(num_columns), names[:num_columns], rotation=90, **style)
        axes.tick_params(length=0)
    if num_rows <= MAX_NUMBERED_CLASSES:
        for (row, column), share in np.ndenumerate(100 * matrix):
            color = "white" if share > 55 else INK if share >= 0.5 else "#c4c4c4"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=8, color=color)
    return figure


def matching_figure(dataset, predictions: Tensor, metrics: Mapping):
    """The confusion matrix of clusters (N,) matched by `metrics["hungarian_match"]`, None without labels."""
    if "hungarian_match" not in metrics:
        return None
    matched = map_clusters(predictions, metrics["hungarian_match"])
    matrix = confusion_matrix(dataset.targets, matched, len(dataset.classes))
    return confusion_figure(matrix, dataset.classes)


def plot_matching(dataset, predictions: Tensor, metrics: Mapping, path: Path) -> bool:
    """Draw `matching_figure`; returns whether there is one."""
    if figure := matching_figure(dataset, predictions, metrics):
        save_png(figure, path, **TIGHT)
    return figure is not None


def plot_neighbors(dataset, neighbors: np.ndarray, path: Path, anchors: int = 10, columns: int = 11) -> None:
    """Draw some images (anchors, evenly spaced over the data set), each with its nearest neighbors.

    neighbors: (N, T + 1) row numbers, column 0 the image itself; the first `columns` are shown. A neighbor of
    another class, where both labels are known, has a red frame."""
    num_anchors = min(anchors, len(dataset))
    targets = np.full(len(dataset), -1) if dataset.targets is None else np.asarray(dataset.targets)
    rows, compared, wrong = [], 0, 0
    for anchor in ((np.arange(num_anchors) + 0.5) * len(dataset) / num_anchors).astype(int):
        shown = np.asarray(neighbors[anchor][1:columns])
        known = (targets[anchor] >= 0) & (targets[shown] >= 0)  # (T,)
        other = known & (targets[shown] != targets[anchor])
        compared += known.sum()
        wrong += other.sum()
        label = f": {dataset.classes[targets[anchor]]}" if targets[anchor] >= 0 else ""
        frames = [BLUE, *(RED if is_other else None for is_other in other)]
        rows.append(Row(f"image {dataset.name(anchor)}{label}", [anchor, *shown], frames))
    note = "Blue: the image; then its neighbors, nearest first."
    if compared:
        note += f" Red: another class ({wrong} of {compared} here)."
    draw_grid(dataset, "Nearest neighbors", note, rows, path)


def plot_prototypes(dataset, prototypes: Mapping, names: Mapping[int, str], path: Path) -> list[Path]:
    """Draw one row per cluster: its prototype, then its companions. Returns the files written.

    prototypes: cluster -> row numbers, the prototype first. names: cluster -> caption of its row. More than
    50 clusters fill several pages, `prototypes-1.png` and so on."""
    clusters = [cluster for cluster, images in prototypes.items() if len(images)]
    pages = [clusters[i : i + ROWS_PER_PAGE] for i in range(0, len(clusters), ROWS_PER_PAGE)]
    note, paths = "Blue: the cluster's prototype; then others of its most confident images.", []
    for number, page in enumerate(pages, start=1):
        title, page_path = "Prototypes", path
        if len(pages) > 1:
            title = f"Prototypes, page {number} of {len(pages)}"
            page_path = page_path.with_name(f"{page_path.stem}-{number}{page_path.suffix}")
        rows = [Row(names[k], prototypes[k], [BLUE] + [None] * (len(prototypes[k]) - 1)) for k in page]
        draw_grid(dataset, title, note, rows, page_path)
        paths.append(page_path)
    return paths


def show(paths: Sequence[Path]) -> None:
    """Open each picture in a window, and wait until they are closed."""
    from matplotlib import pyplot as plt

    for path in paths:
        picture = Image.open(path)
        size = picture.width / DPI, picture.height / DPI  # inches
        axes = plt.figure(path.name, figsize=size).add_axes((0, 0, 1, 1))
        axes.imshow(picture)
        axes.set_axis_off()
    plt.show()
