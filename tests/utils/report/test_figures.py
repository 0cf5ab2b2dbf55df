"""What the pictures of a run show. In their layout small images fill 64 px, and frames are 3 px wide."""

import json
import os
import sys
import warnings
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from utils import console
from utils.errors import UserError
from utils.report import canvas, figures, sweep_table
from utils.report.canvas import save_png
from utils.report.figures import confusion_matrix, plot_neighbors, plot_prototypes
from utils.report.page import to_svg

BLUE, ORANGE, RED = (47, 109, 179), (224, 128, 43), (214, 39, 40)
DARKEST = (8, 48, 107)  # a cell of 100 %
FRAME = 70**2 - 64**2  # pixels of a 3 px frame around a cell of 64 px


class ColorDataset:
    """Image i is 8 x 8 pixels of one color, or the given picture."""

    classes = ("night $x_{$", "été")  # no valid formula

    def __init__(self, size, targets=None, picture=None):
        self.size, self.picture = size, picture
        self.targets = None if targets is None else torch.tensor(targets)
        self.name, self.color = str, lambda index: (3, 1, 20 + index)
        self.colors = [self.color(index) for index in range(size)]

    def __len__(self):
        return self.size

    def get_image(self, index):
        return self.picture or Image.new("RGB", (8, 8), self.color(index))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "é 1.png"


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def count(path, *colors):
    """Pixels of each of the colors."""
    with Image.open(path) as image:
        found = {color: pixels for pixels, color in image.convert("RGB").getcolors(maxcolors=1 << 12)}
    return [found.get(color, 0) for color in colors]


def corner(path, color):
    """Row and column of the first pixel of this color."""
    return tuple(np.argwhere((pixels(path) == color).all(axis=2))[0])


def draw_curves(path, *lines):
    log = path.with_name("log.jsonl")
    log.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    save_png(figures.curves_figure(log), path)
    return path


def draw_confusion(path, classes):
    """An image of each class, alone in a cluster, which is matched to its class."""
    rows, match = torch.arange(len(classes)), [(k, k) for k in range(len(classes))]
    dataset = SimpleNamespace(targets=rows, classes=classes)
    assert save_png(figures.matching_figure(dataset, rows, {"hungarian_match": match}), path, **figures.TIGHT)
    return pixels(path)


# Curves


def test_metrics_of_the_same_name_share_a_panel(path):
    def size(*names):
        return pixels(draw_curves(path, {"epoch": 0} | dict.fromkeys(names, 1.0))).shape

    one, two, four = size("train/loss"), size("train/loss", "val/entropy"), size(*"abcd")
    assert size("train/loss", "val/loss") == one
    assert two[1] > one[1] and two[0] == one[0]  # beside it
    assert four[1] == size(*"abc")[1] and four[0] > one[0]  # at most three columns, then a second row


def test_train_and_val_have_one_color_each_in_every_panel(path):
    lines = [{"epoch": e, "train/a": 1.0, "val/a": 2.0, "val/b": 3.0} for e in range(30)]
    blue, orange = count(draw_curves(path, *lines), BLUE, ORANGE)
    assert blue > 0 and orange > 1.5 * blue  # two lines against one


def test_curves_without_a_number_write_nothing(path):
    assert not draw_curves(path, {"note": 1}, {"epoch": 0}, {"epoch": 1, "sizes": [3]}).exists()


# Confusion matrix


@pytest.mark.parametrize(
    ("targets", "predicted", "shares"),
    [
        ([0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1], [[0.75, 0.25], [0, 1]]),
        ([0, 0], [1, 0], [[0.5, 0.5], [0, 0]]),  # a class without images
        ([0, -1, 1, -1], [0, 0, 1, -1], [[1, 0], [0, 1]]),  # unknown labels are left out
        ([0, 0, 1, 1], [0, -1, -1, -1], [[0.5, 0, 0.5], [0, 0, 1]]),  # clusters matched to no class
    ],
)
def test_confusion_cells_are_shares_of_the_class(targets, predicted, shares):
    np.testing.assert_array_equal(confusion_matrix(torch.tensor(targets), predicted, 2), shares)


@pytest.mark.parametrize("num_classes", [2, 20, 60, 1000])
def test_the_confusion_picture_stays_small_and_loses_no_class(path, num_classes):
    picture = draw_confusion(path, [f"class {i}" for i in range(num_classes)])
    height, width, _ = picture.shape
    assert 240 < height < 1400 and 240 < width < 1400 and path.stat().st_size < 300_000
    diagonal = (picture == DARKEST).all(axis=2)[:, : width - 100]  # without the color bar
    assert diagonal.any(axis=0).sum() >= num_classes and diagonal.any(axis=1).sum() >= num_classes


def test_class_names_are_no_formulas_and_long_ones_are_cut(path):
    assert draw_confusion(path, ["$x_{$", "été", "shark " * 50]).shape[1] < 700


# Neighbors


def test_the_image_comes_first_then_its_neighbors_nearest_first(path):
    dataset = ColorDataset(4)
    neighbors = np.array([[0, 1, 2], [1, 0, 2], [2, 3, 0], [3, 0, 1]])
    plot_neighbors(dataset, neighbors, path, anchors=1)  # image 2 is the middle of four
    assert count(path, *dataset.colors) == [64**2, 0, 64**2, 64**2]
    left, second, third = (corner(path, dataset.color(i))[1] for i in (2, 3, 0))
    assert second - left > third - second == 70  # a gap after the image, none between the neighbors


@pytest.mark.parametrize(("size", "middles"), [(40, (5, 15, 25, 35)), (3, (0, 1, 2))])
def test_anchors_are_spread_evenly_and_columns_limit_the_neighbors(path, size, middles):
    dataset = ColorDataset(size)
    neighbors = (np.arange(size)[:, None] + np.arange(6)) % size
    plot_neighbors(dataset, neighbors, path, anchors=4, columns=3)
    shown = {i for i, number in enumerate(count(path, *dataset.colors)) if number}
    assert shown == {(middle + i) % size for middle in middles for i in range(3)}


@pytest.mark.parametrize(
    ("targets", "wrong"),  # image 2 is drawn with its neighbors 0, 1 and 3
    [
        ([1, 0, 0, 1], 2),
        ([1, -1, 0, -1], 1),  # unknown neighbors are not wrong
        ([1, 1, -1, 1], 0),  # nor are those of an unknown image
        (None, 0),
    ],
)
def test_neighbors_of_another_class_have_a_red_frame(path, targets, wrong):
    dataset = ColorDataset(4, targets)
    plot_neighbors(dataset, np.array([[9] * 4, [9] * 4, [2, 0, 1, 3], [9] * 4]), path, anchors=1)
    assert count(path, RED) == [wrong * FRAME]
    if wrong:
        top, left = corner(path, RED)
        assert tuple(pixels(path)[top + 3, left + 3]) == dataset.color(0)


# Prototypes


def draw_prototypes(dataset, prototypes, path, name=""):
    return plot_prototypes(dataset, prototypes, dict.fromkeys(prototypes, name), path)


def test_small_images_are_enlarged_to_crisp_pixels(path):
    image = Image.new("RGB", (8, 8))
    colors = [(100 + x, 10 * y, 7) for y in range(8) for x in range(8)]
    image.putdata(colors)
    draw_prototypes(ColorDataset(1, picture=image), {0: [0]}, path)
    assert count(path, *colors) == [64] * 64  # each pixel became 8 x 8


def test_large_images_are_cut_to_the_centre_square_and_shrunk(path):
    image = Image.new("RGB", (400, 200), (0, 200, 0))
    image.paste((200, 0, 200), (100, 0, 300, 200))
    draw_prototypes(ColorDataset(1, picture=image), {0: [0]}, path)
    inside, outside = count(path, (200, 0, 200), (0, 200, 0))
    assert 92 * 96 <= inside <= 96**2 and outside == 0  # smoothing may touch the columns at the cut


def test_each_cluster_has_one_framed_prototype(path):
    dataset, prototypes = ColorDataset(30), {k: [3 * k, 3 * k + 1, 3 * k + 2] for k in range(10)}
    assert draw_prototypes(dataset, prototypes, path, "cluster $x_{{$") == [path]
    assert count(path, BLUE, *dataset.colors) == [10 * FRAME] + [64**2] * 30
    top, left = corner(path, dataset.color(12))
    assert tuple(pixels(path)[top - 1, left - 1]) == BLUE


def test_many_clusters_are_drawn_in_two_columns_and_none_is_lost(path):
    dataset = ColorDataset(21)
    draw_prototypes(dataset, {c: [c] for c in range(21)}, path, "name " * 99)
    assert count(path, *dataset.colors) == [64**2] * 21
    lefts = [corner(path, dataset.color(cluster))[1] for cluster in (0, 10, 11, 20)]
    assert lefts[0] == lefts[1] < lefts[2] == lefts[3]


def test_very_many_clusters_fill_numbered_pages(tmp_path):
    dataset, paths = ColorDataset(51), [tmp_path / "p.q-1.png", tmp_path / "p.q-2.png"]
    assert draw_prototypes(dataset, {c: [c] for c in range(51)}, tmp_path / "p.q.png") == paths
    found = [count(path, *dataset.colors) for path in paths]
    assert found == [[64**2] * 50 + [0], [0] * 50 + [64**2]]


def test_pictures_need_no_display_and_no_window_system(tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("MPLBACKEND", "tkagg")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it is an error now
    monkeypatch.delattr(matplotlib, "pyplot", raising=False)
    assert len(draw_all(tmp_path)) == 5


def draw_all(folder):
    """A picture of each kind: name -> bytes."""
    draw_confusion(folder / "confusion.png", ["a", "b"])
    draw_curves(folder / "curves.png", {"epoch": 0, "$x_{$": 1.0})
    draw_prototypes(ColorDataset(2), {0: [0, 1]}, folder / "prototypes.png")
    measured = {name: [0.5, 0.75] for name in sweep_table.PANELS}
    variants = [sweep_table.Variant({"num_classes": str(k)}, k, measured) for k in (2, 3)]
    sweep_table.plot_variants(variants, 2, folder / "sweep.png")
    svg = to_svg(figures.curves_figure(folder / "log.jsonl"))
    return {path.name: path.read_bytes() for path in folder.glob("*.png")} | {"svg": svg}


USERS = {  # settings that a user may have for figures of his own
    "font.family": ["serif"],
    "font.size": 20.0,
    "axes.facecolor": "black",
    "lines.linewidth": 9.0,
    "savefig.dpi": 30.0,
    "savefig.bbox": "tight",
    "image.cmap": "jet",
    "backend": "pdf",
}


def test_pictures_are_the_same_whatever_the_users_settings_which_stay(tmp_path):
    (tmp_path / "plain").mkdir()
    plain = draw_all(tmp_path / "plain")
    with matplotlib.rc_context():
        matplotlib.rcParams.update(USERS)
        matplotlib.rcParams["text.usetex"] = True  # which takes LaTeX
        assert draw_all(tmp_path) == plain
        assert {name: matplotlib.rcParams[name] for name in USERS} == USERS
        assert matplotlib.rcParams["text.usetex"]


def imports(monkeypatch, folder, content):
    """matplotlib has this content, is not imported yet, and MPLBACKEND is set as notebooks set it."""
    (folder / "matplotlib.py").write_text(content)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "matplotlib")
    monkeypatch.setenv("MPLBACKEND", "module://a.notebook")


def test_the_import_does_not_see_a_backend_that_may_not_be_installed_and_the_user_keeps_it(
    monkeypatch, tmp_path
):
    imports(monkeypatch, tmp_path, "import os\nrcParams, seen = {}, os.environ.get('MPLBACKEND')")
    imported = canvas.import_matplotlib()
    assert imported.seen is None and imported.rcParams == {"backend": os.environ["MPLBACKEND"]}


def test_settings_that_stop_the_import_are_a_line_with_the_remedy(monkeypatch, tmp_path):
    imports(monkeypatch, tmp_path, "'é'.encode('latin-1').decode('utf-8')")
    with pytest.raises(UserError, match="matplotlibrc"):
        canvas.import_matplotlib()
    assert os.environ["MPLBACKEND"]


# Names in other scripts


@pytest.fixture
def said(monkeypatch):
    texts = []
    monkeypatch.setattr(console, "say", texts.append)
    console.say_once.cache_clear()
    yield texts
    console.say_once.cache_clear()


def test_a_character_that_no_font_has_shows_its_number_and_that_is_said_once(said, monkeypatch, tmp_path):
    monkeypatch.setattr(canvas, "font_with", lambda each: None if each in "狗猫鱼鸟" else canvas.OWN_FONT)
    first = draw_confusion(tmp_path / "first.png", ["狗", "猫"])
    second = draw_confusion(tmp_path / "second.png", ["鱼", "鸟"])
    numbers = draw_confusion(tmp_path / "numbers.png", ["\\u72d7", "\\u732b"])
    assert not np.array_equal(first, second) and np.array_equal(first, numbers)
    assert len(said) == 1 and "font" in said[0]


def test_a_font_that_has_the_characters_is_used_where_there_is_one(said, tmp_path):
    """Circled letters are in STIXGeneral, which comes with matplotlib, and not in DejaVu Sans."""
    assert canvas.font_with("é") == canvas.OWN_FONT and canvas.font_with("Ⓐ") not in (None, canvas.OWN_FONT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a missing glyph
        first = draw_confusion(tmp_path / "first.png", ["Ⓐ", "Ⓑ"])
        second = draw_confusion(tmp_path / "second.png", ["Ⓒ", "Ⓓ"])
    assert not np.array_equal(first, second) and said == []


@pytest.mark.parametrize(
    "name, shown", [("a\nb", "a\\nb"), ("\udcff.png", "\\udcff.png"), ("été $x$", "été $x$")]
)
def test_what_is_no_letter_shows_its_number_without_a_word(name, shown, said):
    with canvas.own_settings():
        assert canvas.drawable(name, 24) == shown
    assert said == []


# The end of a stage


def concluded(folder, targets, *predictions):
    """The results, warnings and last words of a run, and the pictures that it drew."""
    (folder / "log.jsonl").write_text('{"epoch": 1, "train/loss": 1.0}\n')
    results, warnings, ends = {}, [], []
    log = SimpleNamespace(final=results.__setitem__, warn=warnings.append)
    run = SimpleNamespace(path=folder, log=log, finish=ends.append)
    probabilities, val_set = 0.8 * torch.eye(2)[list(predictions)] + 0.1, ColorDataset(3, targets)
    figures.conclude(run, "SCAN", val_set, torch.eye(3), None, scan=probabilities)
    return results["SCAN"], warnings, ends[0], {path.name for path in folder.glob("*.png")}


def test_results_are_logged_and_both_pictures_drawn_where_labels_are_known(tmp_path):
    results, warnings, end, drawn = concluded(tmp_path, [1, 0, 0], 0, 1, 1)
    assert results["step1_inertia_scan"] == pytest.approx(1 / 3)  # two of three directions share a cluster
    assert results["ACC"] == 1 and results["mean_confidence"] == pytest.approx(0.9) and warnings == []
    assert drawn == {"curves.png", "confusion_matrix.png"} and all(name in end for name in drawn)
    expected = draw_confusion(tmp_path / "expected.png", ColorDataset.classes)
    np.testing.assert_array_equal(pixels(tmp_path / "confusion_matrix.png"), expected)


def test_without_labels_there_is_no_confusion_matrix_but_a_warning_of_collapsed_clusters(tmp_path):
    results, warnings, end, drawn = concluded(tmp_path, None, 1, 1, 1)
    assert "ACC" not in results and drawn == {"curves.png"} and "confusion_matrix.png" not in end
    assert any("used_clusters" in warning for warning in warnings)
