"""Rows of images under captions, as one PNG."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

from utils.report.canvas import DPI, FAINT, INK, new_figure, shorten, to_png
from utils.storage.files import write_whole

ROWS_PER_COLUMN = 20
CAPTION, GUTTER, ASIDE, MARGIN, HEADER = 22, 6, 12, 20, 56  # pixels between and around the images
MIN_ROW_WIDTH = 560  # pixels, for the note


class Row(NamedTuple):
    """One row of a grid; its first image stands apart from the others.

    indices: of the images in the data set. frames: a color or None for each image."""

    caption: str
    indices: Sequence[int]
    frames: Sequence[str | None]


def draw_grid(dataset, title: str, note: str, rows: list[Row], path: Path) -> None:
    """Write one picture of the rows, in two columns if there are many. Images are read one at a time."""
    columns = 1 if len(rows) <= ROWS_PER_COLUMN else 2
    side = min(dataset.get_image(int(rows[0].indices[0])).size)
    enlarged = side * max(1, round(64 / side))  # a whole multiple keeps pixels square
    cell = min(enlarged, 96 if columns == 1 else 64)
    per_column = math.ceil(len(rows) / columns)
    longest = max(len(row.indices) for row in rows)
    row_width = max(longest * (cell + GUTTER) + ASIDE, MIN_ROW_WIDTH)
    row_height = CAPTION + cell + GUTTER
    width = MARGIN + columns * (row_width + MARGIN)
    height = HEADER + per_column * row_height + MARGIN
    corners = [
        (MARGIN + i // per_column * (row_width + MARGIN), HEADER + i % per_column * row_height + CAPTION)
        for i in range(len(rows))
    ]

    texts = new_figure(width / DPI, height / DPI)
    texts.text(MARGIN / width, 1 - 26 / height, title, fontsize=10, color=INK)
    texts.text(MARGIN / width, 1 - 46 / height, note, fontsize=7, color=FAINT)
    for row, (left, top) in zip(rows, corners, strict=True):
        caption = shorten(row.caption, row_width // 8)
        texts.text(left / width, 1 - (top - 6) / height, caption, fontsize=7, color=INK, parse_math=False)
    picture = Image.open(io.BytesIO(to_png(texts))).convert("RGB")
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
    write_whole({path: file.getvalue()})
