"""Settings compared over seeds by criteria that need no label: agreement, the suggested number of clusters, a table and
a picture. docs/number-of-clusters.md has the criterion in words."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from sklearn.metrics import adjusted_rand_score

from utils.report.image_grid import BLUE, DPI, FAINT, INK, RED, save_figure, shorten

TOLERANCE = 0.05  # of agreement
SPREAD = ("loss", "agreement", "silhouette")  # columns whose standard deviation is told too
PANELS = {
    "loss": "validation loss / ln K",
    "used_clusters": "used clusters (bar: K)",
    "agreement": "agreement between seeds",
    "silhouette": "silhouette",
}


class Variant(NamedTuple):
    """One combination of the varied keys, and what its runs gave.

    settings: varied key -> value as given. measured: column -> one number for each seed (agreement: each pair of
    seeds), without those that are undefined."""

    settings: dict[str, str]
    num_classes: int
    seeds: int
    measured: dict[str, list[float]]


def agreements(predictions: Sequence[ArrayLike]) -> list[float]:
    """Adjusted Rand index of each pair of clusterings, (N,) each: 1 for the same clusters, 0 for chance."""
    return [float(adjusted_rand_score(first, second)) for first, second in combinations(predictions, 2)]


def summary(variant: Variant) -> dict[str, str | int | float | None]:
    """A variant's row: of each column the mean over seeds, of `used_clusters` the least; None for what is unknown."""
    row = {**variant.settings, "num_classes": variant.num_classes, "seeds": variant.seeds}
    for name, values in variant.measured.items():
        row[name] = (min if name == "used_clusters" else statistics.mean)(values) if values else None
        if name in SPREAD:
            row[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
    return row


def suggest(rows: Sequence[Mapping]) -> int | None:
    """Of the numbers of clusters at which every seed uses all its clusters, the largest whose mean agreement is within
    0.05 of the highest of them; None if there is none."""
    fit = [row for row in rows if row["used_clusters"] == row["num_classes"]]
    highest = max((row["agreement"] for row in fit), default=None)
    near = [
        row["num_classes"] for row in fit if highest - row["agreement"] <= TOLERANCE + 1e-9
    ]  # for rounding
    return max(near, default=None)


def verdict(rows: Sequence[Mapping], varied: Sequence[str]) -> tuple[int | None, str]:
    """The suggested number of clusters, and the sentence that says so or why there is none."""
    if any(row["agreement"] is None for row in rows):
        return (
            None,
            "no suggestion: the agreement between seeds, which it needs, takes two seeds or more (--seeds 0 1)",
        )
    if list(varied) != ["num_classes"]:
        return (
            None,
            "no suggestion: a number of clusters is suggested where num_classes is varied, and nothing else",
        )
    if (clusters := suggest(rows)) is None:
        return None, "no suggestion: at no number of clusters does every seed use all its clusters"
    return clusters, (
        f"suggested number of clusters: {clusters}, of those at which every seed uses all its clusters the largest "
        f"whose agreement is within {TOLERANCE} of the highest"
    )


def to_csv(rows: Sequence[Mapping]) -> bytes:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def to_lines(rows: Sequence[Mapping]) -> list[str]:
    """The rows as a table to read, `-` for what is unknown."""
    cells = [list(rows[0])]
    for row in rows:
        cells.append(
            ["-" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()]
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]


def plot_variants(variants: Sequence[Variant], suggested: int | None, path: Path) -> None:
    """Draw four panels over the variants: a dot for each seed (agreement: each pair of seeds), a line through the
    means where one key is varied, and the suggested number of clusters."""
    names = [shorten(", ".join(variant.settings.values()), 24) for variant in variants]
    in_order = len(variants[0].settings) == 1
    crowded = max(map(len, names)) > 8 or len(names) > 16
    figure = Figure(figsize=(min(max(6.4, 1 + 0.5 * len(names)), 16), 5.4), dpi=DPI, layout="constrained")
    for axes, (name, title) in zip(figure.subplots(2, 2, sharex=True).flat, PANELS.items(), strict=True):
        for place, variant in enumerate(variants):
            values = variant.measured[name]
            axes.plot([place] * len(values), values, "o", color=FAINT, markersize=4, alpha=0.6, linewidth=0)
            if name == "used_clusters":
                axes.plot(place, variant.num_classes, "_", color=INK, markersize=14)
        means = [statistics.mean(variant.measured[name] or [math.nan]) for variant in variants]
        axes.plot(means, color=BLUE, marker="o", markersize=5, linewidth=1.4 * in_order)
        if suggested is not None:
            place = [variant.num_classes for variant in variants].index(suggested)
            axes.axvline(place, color=RED, linewidth=1.2, linestyle="--", zorder=1)
        axes.set_title(title, fontsize=9, color=INK, loc="left")
        axes.set_xticks(range(len(names)), names, parse_math=False)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=name == "used_clusters"))
        axes.set_ylim(bottom=0 if name == "used_clusters" else None)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(color="#e6e6e6", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[:].set(color="#bbbbbb", linewidth=0.6)
        axes.tick_params(labelsize=7, colors=INK, color=FAINT, width=0.6)
        axes.tick_params(axis="x", labelrotation=90 if crowded else 0)
    figure.supxlabel(", ".join(variants[0].settings), fontsize=8, color=INK, parse_math=False)
    title = "Grey: seeds (of agreement: pairs of seeds); blue: their mean"
    title += f"; red: suggested, {suggested} clusters" if suggested else ""
    figure.suptitle(title, x=0.01, ha="left", fontsize=9, color=INK)
    save_figure(figure, path)
