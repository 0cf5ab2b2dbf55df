"""What all figures share: colors, resolution, the style of axes, labels, and writing PNG files."""

import io
from collections.abc import Callable
from pathlib import Path

from utils.storage.files import write_whole

DPI = 128  # a power of two: pixels / DPI * DPI is exact, so a figure has exactly the size asked for
INK, FAINT, BLUE, RED = "#222222", "#8a8a8a", "#2f6db3", "#d62728"


def new_figure(width: float, height: float, **options):
    """An empty matplotlib figure, which needs no display. width, height: inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, facecolor="white", **options)


def quiet(axes) -> None:
    """Thin and grey ticks and frame."""
    axes.tick_params(labelsize=7, colors=INK, color=FAINT, width=0.6)
    axes.spines[:].set(color="#bbbbbb", linewidth=0.6)


def style_panel(axes, title: str) -> None:
    """One of several panels of a figure: title at the left, a grid, no frame at the top and right."""
    axes.set_title(title, fontsize=9, color=INK, loc="left", parse_math=False)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    quiet(axes)


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def encoded(save: Callable, kind: str, **options) -> bytes:
    """The file that a figure's `savefig` or an image's `save` makes."""
    file = io.BytesIO()
    save(file, format=kind, **options)
    return file.getvalue()


def save_png(figure, path: Path, **options) -> bool:
    """Write a figure, if there is one; returns whether there is."""
    if figure:
        write_whole({path: encoded(figure.savefig, "png", **options)})
    return figure is not None


def labels_of(dataset) -> list[str]:
    """The name of each image's class, "" if it is unknown."""
    targets = [-1] * len(dataset) if dataset.targets is None else dataset.targets.tolist()
    return [dataset.classes[target] if target >= 0 else "" for target in targets]
