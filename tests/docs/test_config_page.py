import re

from docs.config_page import PAGE, config_page, row
from utils.config.keys import KEYS, Key


def cells(line) -> list[str]:
    """The cells of a table row, split as GitHub's Markdown does: at each pipe without a backslash."""
    first, *inner, last = re.split(r"(?<!\\)\|", line.rstrip("\n"))
    assert first == last == ""
    return [cell.strip() for cell in inner]


def test_the_tables_in_docs_are_those_that_the_key_table_makes():
    page = PAGE.read_text(encoding="utf-8")
    assert page == config_page(page.partition("\n## ")[0]), "make docs writes them anew"
    assert PAGE.parts[-2:] == ("docs", "config.md")


def test_every_key_has_one_row_of_six_cells_below_its_heading_in_the_order_of_the_table():
    lines = config_page("").splitlines()
    rows = [cells(line) for line in lines if line.startswith("| `")]
    assert [row[0] for row in rows] == [f"`{name}`" for name in KEYS] and len(rows) > 60
    assert all(len(row) == 6 and row[5] for row in rows)
    start = lines.index("## The machine")
    assert [cells(line)[0] for line in lines[start + 2 : start + 6]] == [
        "key",
        "---",
        "`device`",
        "`precision`",
    ]


def test_a_row_says_all_that_the_table_knows_in_words():
    epochs = Key("epochs", "int >=1 <=9", "passes", "scan selflabel", 5, may_change="all")
    bounds = "a whole number >=1 and <=9"
    assert cells(row(epochs)) == ["`epochs`", bounds, "5", "scan, selflabel", "yes", "passes"]
    rate = Key("a.rate", "float", "factor", "scheduler=cosine step", {"simclr": 2, "moco": 5}, "simclr moco")
    needed, default = "where `scheduler` is cosine or step", "simclr: 2, moco: 5"
    assert cells(row(rate)) == ["`a.rate`", "a number", default, needed, "in simclr, moco", "factor"]
    form = Key("form", ["mlp", "linear"], "head", "all", False)
    assert cells(row(form)) == ["`form`", "one of mlp, linear", "False", "all", "no", "head"]


def test_a_pipe_in_a_cell_does_not_break_the_table():
    line = row(Key("a|b", ["c|d", "e"], "h | i", "other=f|g", "|"))
    assert cells(line) == [r"`a\|b`", r"one of c\|d, e", r"\|", r"where `other` is f\|g", "no", r"h \| i"]
