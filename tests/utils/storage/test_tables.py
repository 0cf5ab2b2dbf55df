"""Tables as spreadsheets write them are read, and tables that are written are read back cell by cell."""

import csv
import io
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.storage.tables import plain, read_table, table_bytes

PLAIN = "path,label\na.png,cat\nin/b.png,dog\n"
SAME = {
    "semicolons": PLAIN.replace(",", ";").encode(),
    "tabs": PLAIN.replace(",", "\t").encode(),
    "a byte order mark": PLAIN.encode("utf-8-sig"),
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-16 with tabs, big end first": b"\xfe\xff" + PLAIN.replace(",", "\t").encode("utf-16-be"),
    "blank rows": b"\n,\npath,label\n\na.png,cat\n,\n  ,\nin/b.png,dog\n\n,,,\n",
    "spaces after commas": PLAIN.replace(",", ", ").encode(),
    "line ends of Windows": PLAIN.replace("\n", "\r\n").encode(),
    "line ends of old Macs": PLAIN.replace("\n", "\r").encode(),
    "a line for Excel": b"sep=;\r\n" + PLAIN.replace(",", ";").encode(),
    "quotes": b'"path";"label"\n"a.png";"cat"\n"in/b.png";"dog"\n',
    "capitals and other columns": b"no,Label,PATH,,\n1,cat,a.png,,\n2,dog,in/b.png,,\n",
}


def read(tmp_path, content, columns=("path", "label")):
    (tmp_path / "table.csv").write_bytes(content)
    return read_table(tmp_path / "table.csv", columns)


@pytest.mark.parametrize("kind", SAME)
def test_tables_are_read_however_a_spreadsheet_writes_them(kind, tmp_path):
    assert read(tmp_path, SAME[kind]) == [["a.png", "cat"], ["in/b.png", "dog"]]


def test_a_name_keeps_its_spaces_and_a_short_row_ends_with_empty_cells(tmp_path):
    assert read(tmp_path, b"path,label\n a;b .png,cat\nc.png\n") == [[" a;b .png", "cat"], ["c.png", ""]]


REFUSED = {  # content: what the error names
    b"": "comma.*semicolon.*tab",
    b"path|label\na.png|cat\n": r"comma.*path\|label",
    b"PK\x03\x04\x14\x00\x06\x00": "table.csv",  # an Excel workbook
    b"path,label\na,b.png,cat\n": "b.png.*','",
    b"path,label\nK\xe4se.png,cat\n": "UTF-8",
}


@pytest.mark.parametrize("content", REFUSED)
def test_other_files_are_refused_with_what_would_be_read(content, tmp_path):
    with pytest.raises(UserError, match=REFUSED[content]):
        read(tmp_path, content)
    with pytest.raises(UserError, match=str(tmp_path / "gone.csv")):
        read_table(tmp_path / "gone.csv", ["path"])


def test_a_table_that_may_not_be_read_is_not_said_to_be_of_another_kind(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(UserError, match=r"table\.csv.*denied") as caught:
        read_table(tmp_path / "table.csv", ["path"])
    assert "CSV" not in str(caught.value)


def test_whole_numbers_lose_the_zero_that_makes_them_floats():
    cells = {" 3.0 ": "3", "-1.0": "-1", "10.00": "10", "1.5": "1.5", "v1.0": "v1.0", "nan": "nan", "": ""}
    cells |= {
        "-1,0": "-1",
        "2,00": "2",
        "1,000": "1,000",
        "1,5": "1,5",
    }  # of spreadsheets with a decimal comma
    assert {cell: plain(cell) for cell in cells} == cells


def test_any_text_comes_back_from_a_written_table(tmp_path):
    texts = ["a\rb", "a\nb", "a\r\nb", 'a"b', "a,b", "a;b\t", " a ", "ä", "\udcff", ""]
    rows = [["path", "label"], *([first, second + "."] for first in texts for second in texts)]
    content = table_bytes(rows)
    text = io.StringIO(content.decode(errors="surrogateescape"), newline="")
    assert list(csv.reader(text)) == rows and content.startswith(b"path,label\n")
    (tmp_path / "table.csv").write_bytes(content)
    assert read_table(tmp_path / "table.csv", ("path", "label"), errors="surrogateescape") == rows[1:]
