"""Pictures of a run: curves, confusion matrix, neighbors and prototypes. PNG files, drawn without a display."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from utils.evaluate.clustering import map_clusters
from utils.report.image_grid import BLUE, DPI, FAINT, INK, RED, Row, draw_grid, save_figure, shorten

LINE_COLORS = [BLUE, "#e0802b", "#4a9a5b", "#8d6bb8", FAINT]

MAX_NUMBERED_CLASSES, MAX_NAMED_CLASSES, MAX_NAME = (
    20,
    60,
    24,
)  # confusion matrix: cell numbers, tick names, letters
ROWS_PER_PAGE = 50  # prototypes
TIGHT = {"bbox_inches": "tight", "pad_inches": 0.12}


def read_epochs(log_path: str | Path) -> dict[int, dict[str, float]]:
    """The finite numbers of each epoch of a run's `log.jsonl`, epochs rising: {epoch: {"train/loss": 1.2, ...}}.

    Lines without an epoch and lines a crash left half-written are skipped. An epoch that stands twice belongs to a
    restarted run: the later line counts.
    """
    epochs = {}
    for line in Path(log_path).read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("epoch"), int):
            numbers = {
                name: value
                for name, value in entry.items()
                if type(value) in (int, float) and name != "epoch"
            }
            epochs[entry["epoch"]] = {name: value for name, value in numbers.items() if math.isfinite(value)}
    return dict(sorted(epochs.items()))


def plot_curves(log_path: str | Path, path: str | Path) -> None:
    """Draw the metrics of a run's `log.jsonl`. Writes nothing when no epoch holds a number."""
    if figure := curves_figure(log_path):
        save_figure(figure, path)


def curves_figure(log_path: str | Path) -> Figure | None:
    """The metrics of a run's `log.jsonl`: `train/loss` and `val/loss` are two lines of one panel, loss.

    None when no epoch holds a number.
    """
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
    figure = Figure(figsize=(0.4 + 2.9 * columns, 0.6 + 2.0 * rows), dpi=DPI, layout="constrained")
    axes, legend = None, {}
    for i, (metric, lines) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, i + 1, sharex=axes)
        for split, points in lines.items():
            color, marker = (
                LINE_COLORS[splits.index(split) % len(LINE_COLORS)],
                "o" if len(points) <= 20 else None,
            )
            (line,) = axes.plot(
                *zip(*points, strict=True), color=color, marker=marker, markersize=3, linewidth=1.4
            )
            legend.setdefault(split, line)
        axes.set_title(metric, fontsize=9, color=INK, loc="left", parse_math=False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(color="#e6e6e6", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        _quiet(axes)
        if i // columns == rows - 1:
            axes.set_xlabel("epoch", fontsize=8, color=INK)
    figure.suptitle("Metrics by epoch", x=0.01, ha="left", fontsize=10, color=INK)
    named = [split for split in splits if split]
    figure.legend(
        [legend[split] for split in named], named, loc="upper right", ncols=5, fontsize=8, frameon=False
    )
    return figure


def confusion_matrix(
    targets: Sequence[int], predicted_classes: Sequence[int], num_classes: int
) -> np.ndarray:
    """Share of each class (row) that was put in the cluster matched to each class (column).

    targets, predicted_classes: (N,) integers in [0, num_classes). Images of target -1 (unknown) are left out; predicted
    class -1 (cluster matched to no class) falls in one last column, there only if needed. Returns float64 (C, C) or
    (C, C + 1); a row sums to 1, or to 0 for a class without images. Raises ValueError for unequal lengths and classes
    out of range.
    """
    targets, predicted = np.asarray(targets, dtype=np.int64), np.asarray(predicted_classes, dtype=np.int64)
    if targets.shape != predicted.shape:
        raise ValueError(
            f"targets {targets.shape} and predicted_classes {predicted.shape} must have the same shape"
        )
    if len(targets) and max(targets.max(), predicted.max()) >= num_classes:
        raise ValueError(
            f"class {max(targets.max(), predicted.max())} is not below num_classes = {num_classes}"
        )
    known = targets >= 0
    columns = np.where(predicted < 0, num_classes, predicted)
    counts = np.zeros((num_classes, num_classes + 1))
    np.add.at(counts, (targets[known], columns[known]), 1)
    if not counts[:, -1].any():
        counts = counts[:, :-1]
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def plot_confusion_matrix(matrix: np.ndarray, classes: Sequence[str], path: str | Path) -> None:
    """Draw what `confusion_matrix` returns, (C, C) or (C, C + 1); classes: C names."""
    save_figure(confusion_figure(matrix, classes), path, **TIGHT)


def confusion_figure(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """What `confusion_matrix` returns, (C, C) or (C, C + 1), under C names; its labels stand outside: save it TIGHT."""
    num_rows, num_columns = matrix.shape
    cell = int(np.clip(round(840 / num_rows), 1, max(52, 240 // num_rows)))  # whole pixels: no class is lost
    width, height = cell * num_columns / DPI, cell * num_rows / DPI  # inches
    figure = Figure(figsize=(width, height), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    norm = PowerNorm(
        1 if num_rows <= MAX_NAMED_CLASSES else 0.5, vmin=0, vmax=100
    )  # 0.5: a cell of 1 % still shows
    image = axes.imshow(
        100 * matrix, cmap="Blues", norm=norm, interpolation="nearest", aspect="auto", zorder=2.6
    )
    bar = figure.colorbar(image, cax=figure.add_axes((1 + 0.15 / width, 0, 0.12 / width, 1)))
    bar.set_label("share of the class (%)", fontsize=8, color=INK)
    axes.set_title("Confusion matrix", fontsize=10, color=INK, loc="left", pad=8)
    axes.set_ylabel("class", fontsize=8, color=INK)
    extra = " (last column: unmatched)" if num_columns > num_rows else ""
    axes.set_xlabel("class matched to the cluster" + extra, fontsize=8, color=INK)
    axes.spines[:].set_position(("outward", 0.6))  # with zorder: the frame hides no cell
    _quiet(axes)
    _quiet(bar.ax)

    if num_rows <= MAX_NAMED_CLASSES:
        names = [shorten(name, MAX_NAME) for name in [*classes, "unmatched"]]
        size = 8 if num_rows <= MAX_NUMBERED_CLASSES else 6
        axes.set_yticks(range(num_rows), names[:num_rows], fontsize=size, parse_math=False)
        axes.set_xticks(range(num_columns), names[:num_columns], fontsize=size, rotation=90, parse_math=False)
        axes.tick_params(length=0)
    if num_rows <= MAX_NUMBERED_CLASSES:
        for (row, column), share in np.ndenumerate(100 * matrix):
            color = "white" if share > 55 else INK if share >= 0.5 else "#c4c4c4"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=8, color=color)
    return figure


def plot_matching(dataset, predictions: Tensor, metrics: dict, path: str | Path) -> list[Path]:
    """Draw the confusion matrix of predicted clusters (N,) under `metrics["hungarian_match"]`, if labels gave one.
    Returns the files written: one or none."""
    if "hungarian_match" not in metrics:
        return []
    matched = map_clusters(predictions, metrics["hungarian_match"])
    plot_confusion_matrix(
        confusion_matrix(dataset.targets, matched, len(dataset.classes)), dataset.classes, path
    )
    return [Path(path)]


def plot_neighbors(
    dataset, neighbors: np.ndarray, path: str | Path, anchors: int = 10, columns: int = 11
) -> None:
    """Draw some images (anchors, evenly spaced over the data set), each with its nearest neighbors.

    neighbors: (N, T + 1) indices, column 0 the image itself; the first `columns` are shown. A neighbor of another
    class, where both labels are known, has a red frame.
    """
    num_anchors = min(anchors, len(dataset))
    targets = np.full(len(dataset), -1) if dataset.targets is None else np.asarray(dataset.targets)
    rows, compared, wrong = [], 0, 0
    for anchor in ((np.arange(num_anchors) + 0.5) * len(dataset) / num_anchors).astype(int):
        shown = np.asarray(neighbors[anchor][1:columns])
        known = (targets[anchor] >= 0) & (targets[shown] >= 0)  # (T,)
        other = known & (targets[shown] != targets[anchor])
        compared, wrong = compared + known.sum(), wrong + other.sum()
        caption = f"image {dataset.name(anchor)}" + (
            f": {dataset.classes[targets[anchor]]}" if targets[anchor] >= 0 else ""
        )
        rows.append(Row(caption, [anchor, *shown], [BLUE, *(RED if o else None for o in other)]))
    note = "Blue: the image; then its neighbors, nearest first."
    if compared:
        note += f" Red: another class ({wrong} of {compared} here)."
    draw_grid(dataset, "Nearest neighbors", note, rows, path)


def plot_prototypes(
    dataset, prototypes: Mapping[int, Sequence[int]], names: Mapping[int, str], path: str | Path
) -> list[Path]:
    """Draw one row per cluster: its prototype, then its companions. Returns the files written.

    prototypes: cluster -> image indices, the prototype first; names: cluster -> caption of its row. Above 50 clusters
    the picture is several pages, `prototypes-1.png` and so on.
    """
    clusters = [cluster for cluster, indices in prototypes.items() if len(indices)]
    pages = [clusters[i : i + ROWS_PER_PAGE] for i in range(0, len(clusters), ROWS_PER_PAGE)]
    note, paths = "Blue: the cluster's prototype; then others of its most confident images.", []
    for number, page in enumerate(pages, start=1):
        title, page_path = "Prototypes", Path(path)
        if len(pages) > 1:
            title = f"Prototypes, page {number} of {len(pages)}"
            page_path = page_path.with_name(f"{page_path.stem}-{number}{page_path.suffix}")
        rows = [Row(names[k], prototypes[k], [BLUE] + [None] * (len(prototypes[k]) - 1)) for k in page]
        draw_grid(dataset, title, note, rows, page_path)
        paths.append(page_path)
    return paths


def show(paths: Sequence[Path]) -> None:
    """Open each picture in a window of its own, and wait until they are closed."""
    from matplotlib import pyplot as plt  # only here: it looks for a display

    with plt.rc_context({"figure.max_open_warning": 0}):
        for path in paths:
            picture = Image.open(path)
            size = picture.width / DPI, picture.height / DPI  # inches
            axes = plt.figure(path.name, figsize=size).add_axes((0, 0, 1, 1))
            axes.imshow(picture)
            axes.set_axis_off()
    plt.show()


def _quiet(axes: Axes) -> None:
    axes.tick_params(labelsize=7, colors=INK, color=FAINT, width=0.6)
    for spine in axes.spines.values():
        spine.set(color="#bbbbbb", linewidth=0.6)
