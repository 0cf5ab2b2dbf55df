"""What all figures share: colors, resolution, the style of axes, labels, and writing PNG files."""

import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import ModuleType

from utils.console import say_once
from utils.errors import UserError
from utils.storage.files import write_whole

DPI = 128  # a power of two: pixels / DPI * DPI is exact, so a figure has exactly the size asked for
OWN_FONT = "DejaVu Sans"  # matplotlib brings it
NO_LETTERS = re.compile("last ?resort|blank", re.IGNORECASE)  # fonts that have a box for each character
INK, FAINT, BLUE, RED = "#222222", "#8a8a8a", "#2f6db3", "#d62728"


@contextmanager
def own_settings() -> Iterator[None]:
    """In the block matplotlib has its default settings, not the user's. All that draws is done in it."""
    matplotlib = import_matplotlib()
    ours = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    with matplotlib.rc_context(ours):
        yield


def import_matplotlib() -> ModuleType:
    """matplotlib. Notebooks set MPLBACKEND, and the import fails if that is not installed: so it is applied
    afterwards. Raises UserError if the import fails still, as with a matplotlibrc that is no UTF-8."""
    backend = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    except Exception as error:
        remedy = "mend matplotlibrc, or install it anew"
        raise UserError(f"matplotlib does not work ({error}): {remedy}") from error
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend
    return matplotlib


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


def drawable(name: str, length: int) -> str:
    """A name as figures show it, of at most `length` characters. Fonts that it needs are added to the
    settings; a character that no installed font has is shown as its number, such as \\u72d7."""
    from matplotlib import rcParams

    fonts = {character: font_with(character) for character in name}
    others = [font for font in fonts.values() if font not in (None, OWN_FONT)]
    rcParams["font.family"] = [*dict.fromkeys([*rcParams["font.family"], *others])]
    if any(character.isprintable() and not font for character, font in fonts.items()):
        say_once("figures show numbers for letters that no font has: install one, such as Noto Sans CJK")
    text = "".join(each if fonts[each] else each.encode("unicode_escape").decode() for each in name)
    return text if len(text) <= length else text[: length - 1] + "…"


@cache
def font_with(character: str) -> str | None:
    """The name of an installed font that has a character; matplotlib's own is asked first."""
    from matplotlib.font_manager import fontManager, get_font

    for font in sorted(fontManager.ttflist, key=lambda font: (font.name != OWN_FONT, font.name)):
        with suppress(Exception):  # a broken file
            if not NO_LETTERS.search(font.name) and get_font(font.fname).get_char_index(ord(character)):
                return font.name
    return None


def encoded(save: Callable, kind: str, **options) -> bytes:
    """The file that a figure's `savefig` or an image's `save` makes."""
    file = io.BytesIO()
    save(file, format=kind, **options)
    return file.getvalue()


def save_png(figure, path: Path, **options) -> bool:
    """Write a figure, if there is one; returns whether there is."""
    if figure:
        with own_settings():
            content = encoded(figure.savefig, "png", **options)
        write_whole({path: content})
    return figure is not None


def labels_of(dataset) -> list[str]:
    """The name of each image's class, "" if it is unknown."""
    targets = [-1] * len(dataset) if dataset.targets is None else dataset.targets.tolist()
    return [dataset.classes[target] if target >= 0 else "" for target in targets]
