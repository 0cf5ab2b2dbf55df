"""Rows of images under captions, as one PNG."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from PIL import Image, ImageOps

from utils.storage.files import write_whole

DPI = 128  # a power of two: pixels / DPI * DPI is exact, so a picture has the very size asked for
INK, FAINT, BLUE, RED = "#222222", "#8a8a8a", "#2f6db3", "#d62728"
ROWS_PER_COLUMN = 20
CAPTION, GUTTER, ASIDE, MARGIN, HEADER = 22, 6, 12, 20, 56  # pixels between and around the images of a grid


class Row(NamedTuple):
    """One row of a grid: its first image stands apart from the others. indices: of the images in the data set; frames:
    a colour or None for each."""

    caption: str
    indices: Sequence[int]
    frames: Sequence[str | None]


def draw_grid(dataset, title: str, note: str, rows: list[Row], path: str | Path) -> None:
    """Write one picture: the rows of images under their captions, in two columns when they are many.

    Images are fetched one by one, and none is kept.
    """
    columns = 1 if len(rows) <= ROWS_PER_COLUMN else 2
    side = min(dataset.get_image(int(rows[0].indices[0])).size)
    enlarged = side * max(1, round(64 / side))  # a whole multiple keeps pixels square
    cell = min(enlarged, 96 if columns == 1 else 64)
    per_column = math.ceil(len(rows) / columns)
    row_width = max(
        max(len(row.indices) for row in rows) * (cell + GUTTER) + ASIDE, 560
    )  # the note needs its room
    row_height = CAPTION + cell + GUTTER
    width = MARGIN + columns * (row_width + MARGIN)
    height = HEADER + per_column * row_height + MARGIN
    corners = [
        (MARGIN + i // per_column * (row_width + MARGIN), HEADER + i % per_column * row_height + CAPTION)
        for i in range(len(rows))
    ]

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)  # the words
    figure.text(MARGIN / width, 1 - 26 / height, title, fontsize=10, color=INK)
    figure.text(MARGIN / width, 1 - 46 / height, note, fontsize=7, color=FAINT)
    for row, (left, top) in zip(rows, corners, strict=True):
        caption = shorten(row.caption, row_width // 8)
        figure.text(left / width, 1 - (top - 6) / height, caption, fontsize=7, color=INK, parse_math=False)
    picture = Image.open(rendered(figure)).convert("RGB")
    for row, (left, top) in zip(rows, corners, strict=True):
        for j, (index, frame) in enumerate(zip(row.indices, row.frames, strict=True)):
            x = left + j * (cell + GUTTER) + (ASIDE if j else 0)
            if frame:
                picture.paste(frame, (x - 3, top - 3, x + cell + 3, top + cell + 3))
            image = dataset.get_image(int(index))
            method = Image.Resampling.NEAREST if min(image.size) <= cell else Image.Resampling.BICUBIC
            picture.paste(ImageOps.fit(image, (cell, cell), method), (x, top))  # the centre square
    file = io.BytesIO()
    picture.save(file, "png")
    write_whole({Path(path): file.getvalue()})


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def save_figure(figure: Figure, path: str | Path, **options) -> None:
    """Write the PNG whole or not at all."""
    write_whole({Path(path): rendered(figure, **options).getvalue()})


def rendered(figure: Figure, **options) -> io.BytesIO:
    """The figure as a PNG file in memory."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, facecolor="white", **options)
    return file
