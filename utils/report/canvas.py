"""What all pictures share: colors, resolution, the style of axes, and writing PNG files without a display."""

import io
from pathlib import Path

from utils.storage.files import write_whole

DPI = 128  # a power of two: pixels / DPI * DPI is exact, so a picture has exactly the size asked for
INK, FAINT, BLUE, RED = "#222222", "#8a8a8a", "#2f6db3", "#d62728"


def new_figure(width: float, height: float, **options):
    """An empty matplotlib figure. width, height: inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, **options)


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


def to_png(figure, **options) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, facecolor="white", **options)
    return file.getvalue()


def save_png(figure, path: Path, **options) -> None:
    write_whole({path: to_png(figure, **options)})
