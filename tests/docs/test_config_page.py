import re

from docs.config_page import PAGE, config_page, row
from utils.config.keys import KEYS, STAGES, Key


def cells(line) -> list[str]:
    """The cells of a table row, split as GitHub's Markdown does: at each pipe without a backslash."""
    first, *inner, last = re.split(r"(?<!\\)\|", line.rstrip("\n"))
    assert first == last == ""
    return [cell.strip() for cell in inner]


def tables(page) -> dict[str, list[list[str]]]:
    """Heading: rows, without the two lines of the head."""
    headings = re.split(r"^## (.+)\n", page, flags=re.M)[1:]
    texts = dict(zip(headings[::2], headings[1::2], strict=True))
    return {name: [cells(line) for line in text.strip().splitlines()][2:] for name, text in texts.items()}


def test_the_page_in_docs_is_the_one_that_the_key_table_makes():
    assert PAGE.read_text(encoding="utf-8") == config_page(), "make docs writes it anew"
    assert PAGE.parts[-2:] == ("docs", "config.md")


def test_every_key_has_one_row_of_six_cells_below_its_heading_in_the_order_of_the_table():
    found = tables(config_page())
    rows = [row for table in found.values() for row in table]
    assert [row[0] for row in rows] == [f"`{key.name}`" for key in KEYS]
    assert len(rows) == len({key.name for key in KEYS}) > 60
    assert all(len(row) == 6 and row[5] for row in rows)
    machine = ("device", "precision", "knn_backend", "num_workers", "knn_index")
    assert [row[0] for row in found["The machine"]] == [f"`{name}`" for name in machine]


def test_a_row_says_all_that_the_table_knows_in_words():
    assert cells(row(Key("epochs", "int >=1 <=9", "scan selflabel", "passes", 5, STAGES))) == [
        *("`epochs`", "a whole number >=1 and <=9", "5", "scan, selflabel", "yes", "passes")
    ]
    assert cells(
        row(Key("a.rate", "float", "scheduler=cosine step", "factor", may_change="simclr moco"))
    ) == [*("`a.rate`", "a number", "", "where `scheduler` is cosine or step", "in simclr, moco", "factor")]
    assert cells(row(Key("form", ("mlp", "linear"), "simclr moco scan selflabel eval", "head"))) == [
        *("`form`", "one of mlp, linear", "", "all", "no", "head")
    ]


def test_a_default_may_be_false_or_follow_the_setup():
    assert cells(row(Key("use", "bool", "", "", False)))[2] == "False"
    assert cells(row(Key("mined", "int", "", "", {"simclr": 20, "moco": 50})))[2] == "simclr: 20, moco: 50"


def test_a_pipe_in_a_cell_does_not_break_the_table():
    line = row(Key("a|b", ("c|d", "e"), "other=f|g", "h | i", "|"))
    assert cells(line) == [r"`a\|b`", r"one of c\|d, e", r"\|", r"where `other` is f\|g", "no", r"h \| i"]
