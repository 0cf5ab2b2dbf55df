import re

from docs.config_page import PAGE, config_page, row
from utils.config.keys import KEYS, Key


def cells(line) -> list[str]:
    """The cells of a table row, split as GitHub's Markdown does: at each pipe without a backslash."""
    first, *inner, last = re.split(r"(?<!\\)\|", line.rstrip("\n"))
    assert first == last == ""
    return [cell.strip() for cell in inner]


def tables(page) -> dict[str, list[list[str]]]:
    """Heading: rows, without the two lines of the head."""
    headings = re.split(r"^## (.+)\n", page, flags=re.M)[1:]
    texts = dict(zip(headings[::2], headings[1::2], strict=True))
    return {
        heading: [cells(line) for line in text.strip().splitlines()][2:] for heading, text in texts.items()
    }


def test_the_page_in_docs_is_the_one_that_the_key_table_makes():
    assert PAGE.read_text(encoding="utf-8") == config_page(), "make docs writes it anew"
    assert PAGE.parts[-2:] == ("docs", "config.md")


def test_every_key_has_one_row_in_the_order_of_the_table():
    rows = [row for table in tables(config_page()).values() for row in table]
    assert [row[0] for row in rows] == [f"`{key.name}`" for key in KEYS]
    assert len(rows) == len({key.name for key in KEYS}) > 60


def test_the_keys_stand_in_nine_tables_of_six_columns():
    found = tables(config_page())
    assert list(found) == [
        *(
            "What is run",
            "The machine",
            "Data",
            "Your own pictures, the data set `folder`",
            "Network",
            "Method",
        ),
        *("Optimization", "Views for training", "The plain view"),
    ]
    assert all(len(row) == 6 for table in found.values() for row in table)
    machine = ("device", "precision", "knn_backend", "num_workers", "knn_index")
    assert [row[0] for row in found["The machine"]] == [f"`{name}`" for name in machine]
    assert found["The plain view"][0][0] == "`transformation_kwargs.crop_size`"


def test_a_row_says_all_that_the_table_knows_in_words():
    assert row(Key("epochs", "int", ">=1 <=9", "scan selflabel", "passes", default=5, may_change=True)) == (
        "| `epochs` | a whole number >=1 and <=9 | 5 | scan, selflabel | yes | passes |\n"
    )
    assert row(Key("a.rate", "float", "", "scheduler=cosine step", "factor")) == (
        "| `a.rate` | a number |  | where `scheduler` is cosine or step | no | factor |\n"
    )
    assert row(Key("form", "str", ("mlp", "linear"), "simclr moco scan selflabel eval", "head")) == (
        "| `form` | one of mlp, linear |  | all | no | head |\n"
    )


def test_a_default_may_be_false_or_follow_the_setup():
    assert cells(row(Key("use", "bool", "", "", "", default=False)))[2] == "False"
    assert (
        cells(row(Key("mined", "int", ">=1", "", "", default={"simclr": 20, "moco": 50})))[2]
        == "simclr: 20, moco: 50"
    )


def test_a_pipe_in_a_cell_does_not_break_the_table():
    line = row(Key("a|b", "str", ("c|d", "e"), "other=f|g", "h | i", default="|"))
    assert cells(line) == [r"`a\|b`", r"one of c\|d, e", r"\|", r"where `other` is f\|g", "no", r"h \| i"]


def test_the_page_says_what_a_restart_with_more_epochs_comes_to():
    text = " ".join(config_page().split())
    assert "with `scheduler: constant` the result is that of an unbroken longer run" in text
    assert "with `cosine` it is not" in text
