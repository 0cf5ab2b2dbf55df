"""Tables that people write in spreadsheets, and tables that a spreadsheet can open."""

import csv
import io
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace

from utils.errors import UserError
from utils.storage.files import explain

KIND = "a CSV table with commas, semicolons or tabs between cells, in UTF-8 or UTF-16"


def read_table(
    path: Path, columns: Sequence[str], optional: Sequence[str] = (), errors: str = "strict"
) -> list[list[str]]:
    """The cells of these columns, row by row, without blank rows. A short row ends with empty cells; so does
    an optional column that is not there.

    The separator, a comma, semicolon or tab, is the one with which the heading names the columns. errors:
    what is done with bytes that are not UTF-8. Raises UserError for a file that is no such table."""
    try:
        content = path.read_bytes()
        encoding = "utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
        text = re.sub(r"\A\s*sep=.[\r\n]+", "", content.decode(encoding, errors))  # Excel's own
        heading = next((line for line in text.splitlines() if re.search(r"\w", line)), "")
        for separator in ",;\t":
            layout = {"delimiter": separator, "skipinitialspace": f"{separator} " in heading}
            names = [name.strip().casefold() for name in next(csv.reader([heading], **layout), [])]
            if set(columns) <= set(names):
                break
        else:
            needed = f"the columns {' and '.join(columns)} in {KIND}"
            raise UserError(f"{path}: should have {needed}, but has {heading!r}")
        rows = list(csv.reader(io.StringIO(text, newline=""), **layout, strict=True))
    except OSError as error:
        raise UserError(explain(error, path, "read")) from error
    except (UnicodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}): it should be {KIND}") from error
    rows = [row for row in rows if any(map(str.strip, row))][1:]
    for row in rows:
        if any(map(str.strip, row[len(names) :])):
            remedy = f"put a text with {separator!r} in quotes"
            raise UserError(f"{path}: more cells than columns, {row}: {remedy}")
    places = [names.index(each) if each in names else len(names) for each in (*columns, *optional)]
    return [[row[place] if place < len(row) else "" for place in places] for row in rows]


def plain(cell: str) -> str:
    """A cell without space around it, and a whole number without the `.0` or `,0` of other programs."""
    return re.sub(r"\A(-?\d+)(\.0+|,00?)\Z", r"\1", cell.strip())


def table_bytes(rows: Iterable[Sequence]) -> bytes:
    """The rows as CSV. Bytes of file names that are not UTF-8 are kept."""
    lines: list[str] = []
    csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n").writerows(rows)  # quotes \r and \n
    return "".join(line[:-2] + "\n" for line in lines).encode(errors="surrogateescape")
