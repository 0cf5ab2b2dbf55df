"""Rows of images under captions, as one PNG."""

import math
from collections.abc import Container, Sequence
from pathlib import Path

from PIL import Image, ImageChops, ImageOps

from utils.report.canvas import BLUE, DPI, FAINT, INK, RED, drawable, encoded, new_figure, own_settings
from utils.storage.files import write_whole

ROWS_PER_COLUMN = 20
CAPTION, GUTTER, ASIDE, MARGIN, HEADER = 22, 6, 12, 20, 56  # pixels between and around the images
MIN_ROW_WIDTH = 560  # pixels, for the note
Row = tuple[str, Sequence[int], Container[int]]  # caption; images by row number; which of them are framed red


@own_settings()
def draw_grid(dataset, title: str, note: str, rows: list[Row], path: Path) -> None:
    """Write one figure of the rows, in two columns if there are many.

    The first image of a row stands apart in a blue frame. Images are read one at a time."""
    columns = 1 if len(rows) <= ROWS_PER_COLUMN else 2
    side = min(dataset.get_image(int(rows[0][1][0])).size)
    enlarged = side * max(1, round(64 / side))  # a whole multiple keeps pixels square
    cell = min(enlarged, 96 if columns == 1 else 64)
    per_column = math.ceil(len(rows) / columns)
    longest = max(len(indices) for _, indices, _ in rows)
    row_width = max(longest * (cell + GUTTER) + ASIDE, MIN_ROW_WIDTH)
    width = MARGIN + columns * (row_width + MARGIN)
    height = HEADER + per_column * (CAPTION + cell + GUTTER) + MARGIN

    figure, picture = new_figure(width / DPI, height / DPI), Image.new("RGB", (width, height), "white")
    figure.text(MARGIN / width, 1 - 26 / height, title, fontsize=10, color=INK)
    figure.text(MARGIN / width, 1 - 46 / height, note, fontsize=7, color=FAINT)
    for i, (caption, indices, red) in enumerate(rows):
        left = MARGIN + i // per_column * (row_width + MARGIN)
        top = HEADER + i % per_column * (CAPTION + cell + GUTTER) + CAPTION
        caption = drawable(caption, row_width // 8)
        figure.text(left / width, 1 - (top - 6) / height, caption, fontsize=7, color=INK, parse_math=False)
        for j, index in enumerate(indices):
            x = left + j * (cell + GUTTER) + (ASIDE if j else 0)
            if j == 0 or index in red:
                picture.paste(RED if j else BLUE, (x - 3, top - 3, x + cell + 3, top + cell + 3))
            image = dataset.get_image(int(index))
            method = Image.Resampling.NEAREST if min(image.size) <= cell else Image.Resampling.BICUBIC
            picture.paste(ImageOps.fit(image, (cell, cell), method), (x, top))  # the centre square
    texts = Image.frombytes("RGBA", picture.size, encoded(figure.savefig, "rgba")).convert("RGB")
    write_whole({path: encoded(ImageChops.darker(picture, texts).save, "png")})
