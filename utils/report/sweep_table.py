"""A sweep's results: the suggested number of clusters, a table and a figure.

docs/number-of-clusters.md explains the criterion."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.report import canvas
from utils.report.canvas import BLUE, FAINT, INK, RED
from utils.storage.tables import table_bytes

TOLERANCE = 0.05  # of agreement
WITH_DEVIATION = ("loss", "agreement", "silhouette")
PANELS = {
    "loss": "validation loss / ln K",
    "used_clusters": "used clusters (bar: K)",
    "agreement": "agreement between seeds",
    "silhouette": "silhouette",
}


class Variant(NamedTuple):
    """One combination of the varied keys, and the results of its runs."""

    settings: dict[str, str]  # varied key -> value as given
    num_classes: int
    measured: dict[str, list[float]]  # column -> its known values, by seed (agreement: by pair of seeds)


def table_row(variant: Variant) -> dict[str, str | int | float | None]:
    """Each column's mean over seeds, the minimum of `used_clusters`; None if unknown."""
    row = {**variant.settings, "num_classes": variant.num_classes, "seeds": len(variant.measured["loss"])}
    for name, values in variant.measured.items():
        row[name] = (min if name == "used_clusters" else statistics.mean)(values) if values else None
        if name in WITH_DEVIATION:
            row[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
    return row


def suggest(rows: Sequence[Mapping], varied: Sequence[str]) -> tuple[int | None, str]:
    """The suggested number of clusters, and a sentence that says so or why there is none.

    It is the largest one whose mean agreement is within 0.05 of the highest, among those of which every seed
    uses all clusters."""
    if any(row["agreement"] is None for row in rows):
        return None, "no suggestion: it needs the agreement between two seeds or more (--seeds 0 1)"
    if list(varied) != ["num_classes"]:
        return None, "no suggestion: it needs a sweep that varies num_classes and nothing else"
    full = [row for row in rows if row["used_clusters"] == row["num_classes"]]
    if not full:
        return None, "no suggestion: with no number of clusters does every seed use all its clusters"
    enough = max(row["agreement"] for row in full) - TOLERANCE - 1e-9  # for rounding
    clusters = max(row["num_classes"] for row in full if row["agreement"] >= enough)
    reason = f"the largest that every seed uses in full, with an agreement within {TOLERANCE} of the highest"
    return clusters, f"suggested number of clusters: {clusters}, {reason}"


def to_csv(rows: Sequence[Mapping]) -> bytes:
    return table_bytes([rows[0], *(row.values() for row in rows)])


def to_lines(rows: Sequence[Mapping]) -> list[str]:
    """The rows as a table for the console, `-` for what is unknown."""

    def cell(value) -> str:
        return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = [list(rows[0]), *(list(map(cell, row.values())) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(map(str.rjust, line, widths)) for line in lines]


@canvas.own_settings()
def plot_variants(variants: Sequence[Variant], suggested: int | None, path: Path) -> None:
    """Draw four panels: a dot for each seed, their mean, and the suggested number of clusters.

    The means are joined by a line if one key is varied."""
    from matplotlib.ticker import MaxNLocator

    names = [canvas.drawable(", ".join(variant.settings.values()), 24) for variant in variants]
    crowded = max(map(len, names)) > 8 or len(names) > 16
    line_width = 1.4 if len(variants[0].settings) == 1 else 0
    figure = canvas.new_figure(min(max(6.4, 1 + 0.5 * len(names)), 16), 5.4, layout="constrained")
    for axes, (name, title) in zip(figure.subplots(2, 2, sharex=True).flat, PANELS.items(), strict=True):
        for place, variant in enumerate(variants):
            values = variant.measured[name]
            axes.plot([place] * len(values), values, "o", color=FAINT, markersize=4, alpha=0.6)
            if name == "used_clusters":
                axes.plot(place, variant.num_classes, "_", color=INK, markersize=14)
        means = [statistics.mean(variant.measured[name] or [math.nan]) for variant in variants]
        axes.plot(means, color=BLUE, marker="o", markersize=5, linewidth=line_width)
        if suggested is not None:
            place = [variant.num_classes for variant in variants].index(suggested)
            axes.axvline(place, color=RED, linewidth=1.2, linestyle="--", zorder=1)
        axes.set_xticks(range(len(names)), names, parse_math=False)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=name == "used_clusters"))
        axes.set_ylim(bottom=0 if name == "used_clusters" else None)
        canvas.style_panel(axes, title)
        axes.tick_params(axis="x", labelrotation=90 if crowded else 0)
    figure.supxlabel(", ".join(variants[0].settings), fontsize=8, color=INK, parse_math=False)
    title = "Grey: seeds (of agreement: pairs of seeds); blue: their mean"
    title += f"; red: suggested, {suggested} clusters" if suggested else ""
    figure.suptitle(title, x=0.01, ha="left", fontsize=9, color=INK)
    canvas.save_png(figure, path)
