"""Rows of images under captions, as one PNG."""

import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from utils.files import write_whole

DPI = 128  # a power of two: pixels / DPI * DPI is exact, so a picture has the very size asked for
INK, FAINT, BLUE, RED = "#222222", "#8a8a8a", "#2f6db3", "#d62728"
ROWS_PER_COLUMN = 20
CAPTION, GUTTER, ASIDE, MARGIN, HEADER = 22, 6, 12, 20, 56  # pixels between and around the images of a grid


class Row(NamedTuple):
    """One row of a grid: its first image stands apart from the others. frames: a colour or None for each image."""

    caption: str
    images: list[Image.Image]
    frames: list[str | None]


def draw_grid(title: str, note: str, rows: list[Row], path: str | Path) -> None:
    """Write one picture: the rows of images under their captions, in two columns when they are many."""
    columns = 1 if len(rows) <= ROWS_PER_COLUMN else 2
    side = min(rows[0].images[0].size)
    enlarged = side * max(1, round(64 / side))  # a whole multiple keeps pixels square
    cell = min(enlarged, 96 if columns == 1 else 64)
    per_column = math.ceil(len(rows) / columns)
    row_width = max(max(len(row.images) for row in rows) * (cell + GUTTER) + ASIDE, 560)  # the note needs its room
    row_height = CAPTION + cell + GUTTER
    width = MARGIN + columns * (row_width + MARGIN)
    height = HEADER + per_column * row_height + MARGIN

    canvas = Image.new("RGB", (width, height), "white")
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    for i, row in enumerate(rows):
        left = MARGIN + (i // per_column) * (row_width + MARGIN)
        top = HEADER + (i % per_column) * row_height + CAPTION
        caption = shorten(row.caption, row_width // 8)
        figure.text(left / width, 1 - (top - 6) / height, caption, fontsize=7, color=INK, parse_math=False)
        for j, (image, frame) in enumerate(zip(row.images, row.frames, strict=True)):
            corner = (left + j * (cell + GUTTER) + (ASIDE if j else 0), top)
            if frame:
                canvas.paste(frame, (corner[0] - 3, corner[1] - 3, corner[0] + cell + 3, corner[1] + cell + 3))
            method = Image.Resampling.NEAREST if min(image.size) <= cell else Image.Resampling.BICUBIC
            canvas.paste(ImageOps.fit(image, (cell, cell), method), corner)  # the centre square
    figure.figimage(np.asarray(canvas), origin="upper")
    figure.text(MARGIN / width, 1 - 26 / height, title, fontsize=10, color=INK)
    figure.text(MARGIN / width, 1 - 46 / height, note, fontsize=7, color=FAINT)
    save_figure(figure, path)


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def save_figure(figure: Figure, path: str | Path, **options) -> None:
    """Write the PNG whole or not at all."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, facecolor="white", **options)
    write_whole({Path(path): file.getvalue()})
