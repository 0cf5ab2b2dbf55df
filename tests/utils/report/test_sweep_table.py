"""What is made of measured runs: the suggested number of clusters, rows, table and picture."""

import csv
import io
import math

import numpy as np
import pytest
from PIL import Image

from utils.report.sweep_table import Variant, plot_variants, suggest, table_row, to_csv, to_lines


def suggested(rows, *varied):
    rows = [dict(zip(("num_classes", "used_clusters", "agreement"), row, strict=True)) for row in rows]
    return suggest(rows, varied or ["num_classes"])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(5, 5, 0.60), (10, 10, 0.90), (20, 20, 0.70)], 10),  # the highest
        ([(5, 5, 0.93), (10, 10, 0.90), (20, 20, 0.70)], 10),  # the largest near the highest
        ([(10, 10, 0.90), (5, 5, 0.93)], 10),  # in any order
        ([(5, 5, 0.90), (10, 10, 0.85)], 10),  # 0.05 below counts, though 0.90 - 0.85 > 0.05 in floats
        ([(5, 5, 0.90), (10, 10, 0.849)], 5),
        ([(5, 5, 0.90), (10, 10, 0.86), (20, 20, 0.82)], 10),  # near the highest, not near one near it
        ([(5, 5, -0.02), (10, 10, -0.03)], 10),
        ([(5, 5, 0.70), (10, 9, 0.75)], 5),  # an unused cluster
        ([(5, 5, 0.70), (8, 8, 0.66), (10, 9, 0.99)], 8),  # whose agreement does not count
    ],
)
def test_the_largest_number_is_suggested_whose_agreement_is_within_a_twentieth_of_the_highest(rows, expected):
    clusters, sentence = suggested(rows)
    assert clusters == expected and str(expected) in sentence


@pytest.mark.parametrize(
    ("rows", "varied", "reason"),
    [
        ([(5, 4, 0.7), (10, 9, 0.9)], ["num_classes"], "all its clusters"),
        ([(5, 5, None)], ["num_classes"], "--seeds"),
        ([(5, 5, 0.7), (10, 10, 0.9)], ["num_heads"], "num_classes"),
        ([(5, 5, 0.7), (10, 10, 0.9)], ["num_classes", "num_heads"], "num_classes"),
    ],
)
def test_the_reason_is_told_where_nothing_is_suggested(rows, varied, reason):
    clusters, sentence = suggested(rows, *varied)
    assert clusters is None and reason in sentence


def variant(settings, num_classes=4, silhouette=(0.25, 0.75), accuracy=()):
    measured = {"loss": [-0.5, -0.7], "used_clusters": [num_classes, num_classes - 1], "agreement": [0.5]}
    measured |= {"silhouette": list(silhouette), "ACC": list(accuracy)}
    return Variant(settings, num_classes, measured)


def test_a_row_has_means_and_sample_deviations_the_least_used_clusters_and_none_for_what_is_unknown():
    row = table_row(variant({"num_heads": "1"}))
    assert row.pop("loss") == pytest.approx(-0.6) and row.pop("loss_std") == pytest.approx(0.2 / math.sqrt(2))
    assert row == {
        **{"num_heads": "1", "num_classes": 4, "seeds": 2, "used_clusters": 3, "ACC": None},
        **{"agreement": 0.5, "agreement_std": None},
        **{"silhouette": 0.5, "silhouette_std": pytest.approx(0.5 / math.sqrt(2))},
    }


def test_the_csv_reads_back_with_empty_cells_for_none_and_the_console_shows_a_dash():
    row = table_row(variant({"scale": "[0.8,1.2]"}, silhouette=(), accuracy=[0.5, 0.75]))
    (read,) = csv.DictReader(io.StringIO(to_csv([row]).decode()))
    assert list(read.items()) == [(k, "" if v is None else str(v)) for k, v in row.items()]
    heading, line = to_lines([row])
    shown = dict(zip(heading.split(), line.split(), strict=True))
    assert (shown["scale"], shown["silhouette"], shown["ACC"]) == ("[0.8,1.2]", "-", "0.625")
    assert len(line) == len(heading)


def red_pixels(path):
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=int)
    return int((pixels[..., 0] - pixels[..., 1] > 80).sum())


def test_the_picture_marks_the_suggested_number_and_takes_any_text(tmp_path):
    variants = [variant({"num_classes": "4"}), variant({"num_classes": "6"}, 6, silhouette=())]
    plot_variants(variants, 6, tmp_path / "marked.png")
    assert red_pixels(tmp_path / "marked.png") > 100
    plot_variants([variant({"run_$": "a_{$"})], None, tmp_path / "text.png")
    assert red_pixels(tmp_path / "text.png") == 0
