"""What the pictures of a run show. Pixel counts follow the layout: small images fill 64 px, frames are 3 px wide."""

import json
import runpy
import sys
import weakref

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from utils.report import figures as visualize
from utils.report.figures import (
    confusion_matrix,
    plot_confusion_matrix,
    plot_curves,
    plot_matching,
    plot_neighbors,
    plot_prototypes,
    read_epochs,
    show,
)

BLUE, ORANGE, RED, DARKEST = (
    (47, 109, 179),
    (224, 128, 43),
    (214, 39, 40),
    (8, 48, 107),
)  # DARKEST: a cell of 100 %
FRAME = 70**2 - 64**2  # pixels of a 3 px frame around a cell of 64 px


class ColorDataset:
    """Image i is 8 x 8 pixels of one colour of its own."""

    classes = ("night $x_{$", "été")  # no valid formula

    def __init__(self, size, targets=None):
        self.size, self.targets = size, None if targets is None else torch.tensor(targets)

    def __len__(self):
        return self.size

    def color(self, index):
        return (3, 1, 20 + index)

    def colors(self):
        return [self.color(index) for index in range(self.size)]

    def get_image(self, index):
        return Image.new("RGB", (8, 8), self.color(index))

    def name(self, index):
        return str(index)


class OneImage(ColorDataset):
    """The same given picture, twice."""

    def __init__(self, image):
        super().__init__(2)
        self.image = image

    def get_image(self, index):
        return self.image


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "mes résultats 1"
    folder.mkdir()
    return folder


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def count(path, *colors):
    """Pixels of each of the colours."""
    with Image.open(path) as image:
        found = {color: pixels for pixels, color in image.convert("RGB").getcolors(maxcolors=1 << 12)}
    counts = [found.get(color, 0) for color in colors]
    return counts if len(counts) > 1 else counts[0]


def corner(path, color):
    """Row and column of the first pixel of this colour."""
    return tuple(np.argwhere((pixels(path) == color).all(axis=2))[0])


def write_log(folder, *lines):
    path = folder / "log.jsonl"
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8"
    )
    return path


# Reading the log


def test_epochs_are_read_in_rising_order_and_other_notes_are_skipped(folder):
    log = write_log(
        folder, {"note": "start"}, {"epoch": 2, "train/loss": 1.5}, {"epoch": 1, "train/loss": 2}, "7", ""
    )
    assert list(read_epochs(log).items()) == [(1, {"train/loss": 2}), (2, {"train/loss": 1.5})]


def test_an_epoch_of_a_restarted_run_replaces_the_earlier_one(folder):
    log = write_log(folder, {"epoch": 0, "a": 1.0, "b": 2.0}, {"epoch": 1, "a": 3.0}, {"epoch": 0, "a": 4.0})
    assert read_epochs(log) == {0: {"a": 4.0}, 1: {"a": 3.0}}


def test_a_half_written_last_line_is_skipped(folder):
    log = write_log(folder, {"epoch": 0, "a": 1.0}, '{"epoch": 1, "a": 2.')
    assert read_epochs(log) == {0: {"a": 1.0}}


def test_a_line_cut_inside_a_letter_is_skipped(folder):
    log = folder / "log.jsonl"
    log.write_bytes(b'{"epoch": 0, "a": 1.0}\n{"note": "\xc3')
    assert read_epochs(log) == {0: {"a": 1.0}}


def test_only_finite_numbers_are_metrics(folder):
    log = write_log(
        folder,
        '{"epoch": 0, "a": NaN, "b": -Infinity, "c": 1, "sizes": [1, 2], "d": {}, "e": "x", "f": true, "g": null}',
    )
    assert read_epochs(log) == {0: {"c": 1}}


# Curves


def test_metrics_of_the_same_name_share_a_panel(folder):
    def size(*names):
        plot_curves(write_log(folder, {"epoch": 0} | dict.fromkeys(names, 1.0)), folder / "curves.png")
        return pixels(folder / "curves.png").shape

    one, two, four = size("train/loss"), size("train/loss", "val/entropy"), size(*"abcd")
    assert size("train/loss", "val/loss") == one
    assert two[1] > one[1] and two[0] == one[0]  # beside it
    assert four[1] == size(*"abc")[1] and four[0] > one[0]  # at most three columns, then a second row


def test_train_and_val_have_one_colour_each_in_every_panel(folder):
    lines = [{"epoch": e, "train/a": 1.0, "val/a": 2.0, "val/b": 3.0} for e in range(30)]
    plot_curves(write_log(folder, *lines), folder / "both.png")
    plot_curves(
        write_log(folder, *({"epoch": line["epoch"], "val/a": 2.0} for line in lines)), folder / "val.png"
    )
    assert count(folder / "both.png", BLUE) > 0
    assert count(folder / "both.png", ORANGE) > 1.5 * count(
        folder / "both.png", BLUE
    )  # two lines against one
    assert count(folder / "val.png", BLUE) > 0 and count(folder / "val.png", ORANGE) == 0


@pytest.mark.parametrize("lines", [[], [{"note": 1}], [{"epoch": 0}, {"epoch": 1, "sizes": [3]}]])
def test_curves_without_a_number_write_nothing(folder, lines):
    plot_curves(write_log(folder, *lines), folder / "curves.png")
    assert not (folder / "curves.png").exists()


# Confusion matrix


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_confusion_cells_are_shares_of_the_class(kind):
    matrix = confusion_matrix(kind([0, 0, 0, 0, 1, 1]), kind([0, 0, 0, 1, 1, 1]), 2)
    np.testing.assert_array_equal(matrix, [[0.75, 0.25], [0.0, 1.0]])


def test_confusion_agrees_with_scikit_learn():
    generator = np.random.default_rng(0)
    targets, predicted = generator.integers(0, 7, (2, 300))
    expected = sklearn_confusion_matrix(targets, predicted, normalize="true")
    np.testing.assert_allclose(confusion_matrix(targets, predicted, 7), expected)


def test_a_class_without_images_is_a_row_of_zeros():
    np.testing.assert_array_equal(confusion_matrix([0, 2], [1, 2], 3), [[0, 1, 0], [0, 0, 0], [0, 0, 1]])


def test_images_of_unknown_class_are_left_out_of_the_confusion():
    np.testing.assert_array_equal(confusion_matrix([0, -1, 1, -1], [0, 0, 1, -1], 2), [[1, 0], [0, 1]])


def test_clusters_matched_to_no_class_fall_in_one_last_column():
    matrix = confusion_matrix([0, 0, 1, 1], [0, -1, -1, -1], 2)
    np.testing.assert_array_equal(matrix, [[0.5, 0, 0.5], [0, 0, 1]])


def test_no_images_at_all_give_zeros():
    np.testing.assert_array_equal(confusion_matrix([], [], 2), np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("targets", "predicted", "message"),
    [([0, 1], [0], "same shape"), ([0, 2], [0, 1], "class 2"), ([0, 1], [0, 3], "class 3")],
)
def test_confusion_refuses_unequal_lengths_and_unknown_classes(targets, predicted, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(targets, predicted, 2)


@pytest.mark.parametrize("num_classes", [2, 20, 60, 1000])
def test_the_confusion_picture_stays_small_and_loses_no_class(folder, num_classes):
    path = folder / "confusion.png"
    plot_confusion_matrix(np.eye(num_classes), [f"class {i}" for i in range(num_classes)], path)
    height, width, _ = pixels(path).shape
    assert 240 < height < 1400 and 240 < width < 1400
    assert path.stat().st_size < 300_000
    diagonal = (pixels(path) == DARKEST).all(axis=2)[:, : width - 100]  # without the colour bar
    assert diagonal.any(axis=0).sum() >= num_classes and diagonal.any(axis=1).sum() >= num_classes


def test_the_unmatched_column_is_one_cell_wide(folder):
    square, wide = folder / "square.png", folder / "wide.png"
    plot_confusion_matrix(np.zeros((61, 61)), [""] * 61, square)
    plot_confusion_matrix(np.zeros((61, 62)), [""] * 61, wide)
    assert abs(pixels(wide).shape[1] - pixels(square).shape[1] - 14) <= 1  # 61 classes on about 840 pixels


def test_class_names_are_no_formulas_and_long_ones_are_cut(folder):
    plot_confusion_matrix(np.eye(3), ["$x_{$", "été", "shark " * 50], folder / "confusion.png")
    assert pixels(folder / "confusion.png").shape[1] < 700


def test_the_confusion_of_a_matching_is_drawn_where_labels_gave_one(folder):
    dataset, clusters = ColorDataset(4, [0, 0, 1, -1]), torch.tensor([1, 1, 0, 0])
    assert plot_matching(dataset, clusters, {}, folder / "unlabelled.png") == []
    matched = {"hungarian_match": [(0, 1), (1, 0)]}
    assert plot_matching(dataset, clusters, matched, folder / "matched.png") == [folder / "matched.png"]
    plot_confusion_matrix(np.eye(2), dataset.classes, folder / "expected.png")
    assert not (folder / "unlabelled.png").exists()
    assert (folder / "matched.png").read_bytes() == (folder / "expected.png").read_bytes()


# Neighbors


def test_the_image_stands_first_then_its_neighbors_nearest_first(folder):
    dataset, path = ColorDataset(4), folder / "neighbors.png"
    neighbors = np.array([[0, 1, 2], [1, 0, 2], [2, 3, 0], [3, 0, 1]])
    plot_neighbors(dataset, neighbors, path, anchors=1)  # image 2 is the middle of four
    assert count(path, *dataset.colors()) == [64**2, 0, 64**2, 64**2]
    left, second, third = (corner(path, dataset.color(i))[1] for i in (2, 3, 0))
    assert second - left > third - second == 70  # the image stands apart, the others follow each other


def test_anchors_are_spread_evenly_and_columns_limit_the_neighbors(folder):
    dataset, path = ColorDataset(40), folder / "neighbors.png"
    neighbors = (np.arange(40)[:, None] + np.arange(6)) % 40
    plot_neighbors(
        dataset, neighbors, path, anchors=4, columns=3
    )  # middles of the four quarters: 5, 15, 25, 35
    assert [i for i, seen in enumerate(count(path, *dataset.colors())) if seen] == [
        5,
        6,
        7,
        15,
        16,
        17,
        25,
        26,
        27,
        35,
        36,
        37,
    ]


def test_a_data_set_of_fewer_images_than_anchors_is_drawn_whole(folder):
    dataset, path = ColorDataset(3), folder / "neighbors.png"
    plot_neighbors(dataset, np.arange(3)[:, None], path)
    assert count(path, *dataset.colors()) == [64**2] * 3


@pytest.mark.parametrize(
    ("targets", "wrong"),  # image 2 is drawn with its neighbors 0, 1 and 3
    [
        ([1, 0, 0, 1], 2),
        ([1, -1, 0, -1], 1),  # unknown neighbors are not wrong
        ([1, 1, -1, 1], 0),  # nor are those of an unknown image
        (None, 0),
    ],
)
def test_neighbors_of_another_class_have_a_red_frame(folder, targets, wrong):
    dataset, path = ColorDataset(4, targets), folder / "neighbors.png"
    plot_neighbors(dataset, np.array([[9] * 4, [9] * 4, [2, 0, 1, 3], [9] * 4]), path, anchors=1)
    assert count(path, RED) == wrong * FRAME
    if wrong:
        top, left = corner(path, RED)
        assert tuple(pixels(path)[top + 3, left + 3]) == dataset.color(0)


def test_small_images_are_enlarged_to_crisp_pixels(folder):
    image = Image.new("RGB", (8, 8))
    colors = [(100 + x, 10 * y, 7) for y in range(8) for x in range(8)]
    image.putdata(colors)
    plot_prototypes(OneImage(image), {0: [0]}, {0: ""}, folder / "p.png")
    assert count(folder / "p.png", *colors) == [64] * 64  # each pixel became 8 x 8


def test_large_images_are_cut_to_the_centre_square_and_shrunk(folder):
    image = Image.new("RGB", (400, 200), (0, 200, 0))
    image.paste((200, 0, 200), (100, 0, 300, 200))
    plot_prototypes(OneImage(image), {0: [0]}, {0: ""}, folder / "p.png")
    inside, outside = count(folder / "p.png", (200, 0, 200), (0, 200, 0))
    assert 92 * 96 <= inside <= 96**2 and outside == 0  # smoothing may touch the columns at the cut


# Prototypes


def test_each_cluster_has_one_framed_prototype(folder):
    dataset, path = ColorDataset(30), folder / "prototypes.png"
    prototypes = {cluster: [3 * cluster, 3 * cluster + 1, 3 * cluster + 2] for cluster in range(10)}
    assert plot_prototypes(dataset, prototypes, {c: f"cluster {c}: '$x_{{$'" for c in range(10)}, path) == [
        path
    ]
    assert count(path, *dataset.colors()) == [64**2] * 30
    assert count(path, BLUE) == 10 * FRAME
    for cluster in (0, 4, 9):
        top, left = corner(path, dataset.color(3 * cluster))
        assert tuple(pixels(path)[top - 1, left - 1]) == BLUE


def test_many_clusters_stand_in_two_columns_and_none_is_lost(folder):
    dataset, path = ColorDataset(21), folder / "prototypes.png"
    assert plot_prototypes(
        dataset, {c: [c] for c in range(21)}, dict.fromkeys(range(21), "name " * 99), path
    ) == [path]
    assert count(path, *dataset.colors()) == [64**2] * 21
    lefts = [corner(path, dataset.color(cluster))[1] for cluster in (0, 10, 11, 20)]
    assert lefts[0] == lefts[1] < lefts[2] == lefts[3]


def test_rows_of_unequal_length_lose_no_image(folder):
    dataset, path = ColorDataset(12), folder / "prototypes.png"
    plot_prototypes(dataset, {0: [0], 1: range(1, 12)}, {0: "", 1: ""}, path)
    assert count(path, *dataset.colors()) == [64**2] * 12


def test_very_many_clusters_fill_numbered_pages(folder):
    dataset = ColorDataset(51)
    paths = plot_prototypes(
        dataset, {c: [c] for c in range(51)}, dict.fromkeys(range(51), ""), folder / "p.q.png"
    )
    assert paths == sorted(folder.iterdir()) == [folder / "p.q-1.png", folder / "p.q-2.png"]
    assert count(paths[0], *dataset.colors()) == [64**2] * 50 + [0]
    assert count(paths[1], *dataset.colors()) == [0] * 50 + [64**2]


def test_clusters_without_images_are_left_out(folder):
    path = folder / "prototypes.png"
    assert plot_prototypes(ColorDataset(2), {0: [], 1: [1]}, {0: "", 1: ""}, path) == [path]
    assert count(path, BLUE) == FRAME
    path.unlink()
    assert plot_prototypes(ColorDataset(2), {0: []}, {0: ""}, path) == []
    assert not path.exists()


def test_drawing_many_clusters_keeps_no_image_in_memory(folder):
    class Watched(ColorDataset):
        alive, most = 0, 0

        def get_image(self, index):
            image = super().get_image(index)
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(image, self.forget)
            return image

        def forget(self):
            self.alive -= 1

    dataset = Watched(120)
    plot_prototypes(
        dataset, {c: [2 * c, 2 * c + 1] for c in range(60)}, dict.fromkeys(range(60), ""), folder / "p.png"
    )
    assert 0 < dataset.most <= 2  # the next one is fetched before the last is let go


def test_a_full_page_of_the_least_compressible_images_is_barely_larger_than_their_pixels(folder):
    class Noise(ColorDataset):
        def get_image(self, index):
            return Image.fromarray(np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8))

    (path,) = plot_prototypes(
        Noise(500),
        {c: range(10 * c, 10 * c + 10) for c in range(50)},
        dict.fromkeys(range(50), ""),
        folder / "p.png",
    )
    assert 1 < path.stat().st_size / (500 * 64 * 64 * 3) < 1.1  # a fourth, opaque channel would cost more


def test_show_opens_each_picture_in_a_window_of_its_own(folder, monkeypatch, recwarn):
    from matplotlib import pyplot as plt

    plt.switch_backend("agg")
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.extend(plt.get_figlabels()))
    paths = [folder / f"{number}.png" for number in range(21)]  # matplotlib warns of more than 20 figures
    for path in paths:
        Image.new("RGB", (64, 64)).save(path)
    show(paths)
    plt.close("all")
    assert shown == [path.name for path in paths]
    assert not recwarn.list


# Files


def test_nothing_but_the_picture_is_left_and_drawing_twice_gives_the_same_file(folder):
    for name in ("a.png", "b.png"):
        plot_neighbors(ColorDataset(12), np.arange(12)[:, None], folder / name)
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "b.png"]
    assert (folder / "a.png").read_bytes() == (folder / "b.png").read_bytes()


def test_a_full_disk_leaves_the_old_picture_whole(folder, monkeypatch):
    path = folder / "confusion.png"
    plot_confusion_matrix(np.eye(2), ["a", "b"], path)
    old = path.read_bytes()

    def fail(self, target, **options):
        target.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="No space left"):
        plot_confusion_matrix(np.eye(2), ["a", "b"], path)
    assert path.read_bytes() == old


def test_pictures_need_no_display_and_no_window_system(folder, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("MPLBACKEND", "tkagg")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it is an error now
    monkeypatch.delattr(matplotlib, "pyplot", raising=False)
    fresh = runpy.run_path(visualize.__file__)
    fresh["plot_confusion_matrix"](np.eye(2), ["a", "b"], folder / "confusion.png")
    fresh["plot_curves"](write_log(folder, {"epoch": 0, "$x_{$": 1.0}), folder / "curves.png")
    fresh["plot_neighbors"](ColorDataset(2), np.array([[0, 1], [1, 0]]), folder / "neighbors.png")
    fresh["plot_prototypes"](ColorDataset(2), {0: [0, 1]}, {0: "0"}, folder / "prototypes.png")
    assert len(list(folder.glob("*.png"))) == 4
