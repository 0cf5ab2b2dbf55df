"""What the report holds, read back from the page. tests/test_report_in_browser.py shows it in a browser."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from utils.report import page as report
from utils.report.cluster_cards import Clustering, describe_clusters
from utils.report.page import Thumbnail, choose_thumbnails, thumbnail, write_report

NASTY = "</script><script>alert('1')</script>\"&<b>.png"


class Pictures(list):
    """Image i is `side` x `side` noise; notes which ones were fetched."""

    def __init__(self, size, targets=None, classes=(), side=8, names=(), duplicates=()):
        super().__init__(range(size))
        self.classes, self.side, self.names, self.fetched = list(classes), side, dict(names), []
        self.targets = None if targets is None else torch.tensor(targets)
        self.duplicates = lambda: list(duplicates)

    def name(self, index):
        return self.names.get(index, f"image-{index}.png")

    def get_image(self, index):
        self.fetched.append(index)
        noise = np.random.default_rng(index).integers(0, 256, (self.side, self.side, 3), dtype=np.uint8)
        return Image.fromarray(noise)


class Page(HTMLParser):
    """text: of the page, without scripts and styles. rows: id of a card or section -> the images on its
    buttons. inputs: cluster -> the name filled in. sources: all data URIs of photographs. data: the JSON."""

    def __init__(self, content):
        super().__init__()
        self.content, self.texts, self.rows, self.inputs, self.open = content, [], {}, {}, []
        self.sources = re.findall(r'"(data:image/(?:png|jpeg)[^"]*)"', content)
        self.feed(content)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in ("meta", "link", "img", "input"):
            self.open.append((tag, attributes))
        if tag == "section" or attributes.get("class") == "card":
            self.place = attributes["id"]
            self.rows[self.place] = []
        if attributes.get("class") == "picture":
            self.rows[self.place].append(int(attributes["data-image"]))
        if tag == "input":
            self.inputs[int(attributes["data-cluster"])] = attributes["value"]

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, text):
        tag, attributes = self.open[-1] if self.open else ("", {})
        if attributes.get("id") == "data":
            self.data = json.loads(text)
        elif tag not in ("script", "style"):
            self.texts.append(text)


@pytest.fixture
def page_of(tmp_path):
    """Writes a page and reads it back; features, neighbors, and probabilities unless given, are random."""

    def page_of(
        dataset, clusters=2, metrics=(), names=(), probabilities=None, title="a", summary=(), logs=()
    ):
        size, generator = len(dataset), torch.Generator().manual_seed(0)
        if probabilities is None:
            probabilities = (2 * torch.randn(size, clusters, generator=generator)).softmax(dim=1)
        features = torch.randn(size, 5, generator=generator) + 1
        neighbors = torch.rand(size, size, generator=generator).fill_diagonal_(-1).argsort(dim=1)[:, :5]
        clustering = Clustering(dataset, probabilities, features, dict(metrics), dict(names))
        path, about = tmp_path / "report.html", {"title": title, "summary": dict(summary), "logs": dict(logs)}
        write_report(path, clustering, neighbors, about)
        page = Page(path.read_text(encoding="utf-8"))
        page.clustering, page.neighbors = clustering, neighbors
        return page

    return page_of


def one_hot(*clusters, of=3):
    return torch.eye(of)[list(clusters)]


def test_every_cluster_has_a_card_with_its_name_size_and_images(page_of):
    page = page_of(Pictures(40), 7, names={1: "cats & dogs"})
    assert page.inputs == {k: "cats & dogs" if k == 1 else "" for k in range(7)}
    assert "cluster 0" in page.text and "cats & dogs" in page.text and "cluster 1" not in page.text
    for k, cluster in enumerate(describe_clusters(page.clustering)):
        assert f"{cluster.size} images · {100 * cluster.size / 40:.1f}%" in page.text
        assert page.rows[f"cluster-{k}"] == cluster.images + cluster.doubtful


def test_the_card_of_an_empty_cluster_says_so(page_of):
    page = page_of(Pictures(3), probabilities=one_hot(0, 2, 2))
    assert page.rows["cluster-1"] == [] and page.text.count("This cluster is empty") == 1


def test_labels_are_shown_where_they_are_known(page_of):
    metrics = {"ACC": 0.98765, "used_clusters": 1234, "hungarian_match": [(0, 1), (1, 0)], "sizes": [1, 2]}
    page = page_of(Pictures(3, [1, -1, 0], ["cat", "dog"]), metrics=metrics, probabilities=one_hot(0, 0, 1))
    labels = {int(row): image.get("label") for row, image in page.data["images"].items()}
    assert labels == {0: "dog", 1: None, 2: "cat"}
    assert "confusion" in page.rows and "Commonest classes dog 100.0%" in page.text
    assert "0.9877" in page.text and "1,234" in page.text
    assert "sizes" not in page.text and "hungarian" not in page.text


@pytest.mark.parametrize("targets", [None, [-1] * 30])
def test_without_labels_nothing_speaks_of_them(page_of, targets):
    page = page_of(Pictures(30, targets), 3, metrics={"used_clusters": 3})
    assert {place for place in page.rows if "-" not in place} == {"figures", "sizes", "clusters", "unsure"}
    assert all("label" not in image for image in page.data["images"].values())
    assert "class" not in page.text.lower() and "Confusion" not in page.text


# -- Which images


def test_at_most_48_of_a_cluster_are_embedded_and_each_once(page_of):
    dataset = Pictures(300, duplicates=[[1, 2, 3]])
    page = page_of(dataset, 3)
    embedded = [int(row) for row in page.data["images"]]
    assert page.clustering.probabilities.argmax(dim=1)[embedded].bincount().tolist() == [48, 48, 48]
    assert len(page.sources) == len(set(page.sources)) == len(embedded) == 144
    assert sorted(dataset.fetched) == sorted(embedded)


def chosen_of(cards, others, neighbors, predictions):
    """The rows of the chosen thumbnails, each of 100 bytes."""
    clusters = [SimpleNamespace(images=images, doubtful=doubtful) for images, doubtful in cards]
    picture = Thumbnail("x" * 100, crisp=False)
    return list(choose_thumbnails(clusters, others, neighbors, predictions, lambda row: picture))


def test_room_goes_to_the_cards_then_to_others_and_first_neighbors_before_second_ones(monkeypatch):
    neighbors = torch.arange(20)[:, None].repeat(1, 3)
    neighbors[0], neighbors[1] = torch.tensor([0, 10, 11]), torch.tensor([1, 12, 10])
    arguments = [([0, 1], [])], [2, 0, 3], neighbors, [0] * 20
    assert chosen_of(*arguments) == [0, 1, 2, 3, 10, 12, 11]
    monkeypatch.setattr(report, "MAX_THUMBNAILS", 5)
    assert chosen_of(*arguments) == [0, 1, 2, 3, 10]


@pytest.mark.parametrize(
    ("fit", "chosen"), [(0, [0, 10]), (1, [0, 10]), (3, [0, 7, 1, 10, 11, 12]), (4, [0, 7, 1, 8, 10, 11, 12])]
)
def test_with_few_bytes_the_prototype_stays_then_least_and_most_confident_in_turn(fit, chosen, monkeypatch):
    cards, predictions = [([0, 1, 2], [7, 8]), ([10], []), ([], [])], [0] * 10 + [1] * 10
    monkeypatch.setattr(report, "MAX_BYTES", 3 * 600 * fit)  # for three clusters, 500 bytes are text
    assert chosen_of(cards, [3, 11, 12], torch.arange(20)[:, None], predictions) == chosen


def test_the_dialog_knows_the_neighbors_as_given_and_the_likeliest_clusters(page_of):
    page = page_of(Pictures(200), 4)
    assert page.data["names"]  # some neighbors did not fit
    for row, image in page.data["images"].items():
        assert image["neighbors"] == page.neighbors[int(row), 1:].tolist()
        probabilities = page.clustering.probabilities[int(row)].tolist()
        likeliest = sorted(range(4), key=lambda k: -probabilities[k])[:3]
        assert image["clusters"] == [[k, pytest.approx(probabilities[k], abs=1e-4)] for k in likeliest]
        for other in map(str, image["neighbors"]):
            assert (other in page.data["images"]) != (page.data["names"].get(other) == f"image-{other}.png")


def test_the_most_unsure_come_by_the_gap_of_the_two_likeliest(page_of):
    probabilities = torch.tensor([[0.49, 0.02, 0.49], [0.9, 0.1, 0.0], [0.4, 0.33, 0.27], [0.2, 0.45, 0.35]])
    page = page_of(Pictures(4), probabilities=probabilities)
    assert page.rows["unsure"] == [0, 2, 3, 1]  # gaps of 0, 0.07, 0.1 and 0.8
    assert "0.40 · 0.33" in page.text


def test_duplicates_are_shown_by_groups_and_long_ones_are_cut(page_of, monkeypatch):
    monkeypatch.setattr(report, "GROUPS", 2)
    page = page_of(Pictures(30, duplicates=[[3, 5], list(range(10, 21)), [1, 2]]))
    assert page.rows["duplicates"] == [3, 5, *range(10, 18)]
    assert "3 groups; the first 2 are shown" in page.text and "11 images, 8 shown" in page.text


# -- Thumbnails


def opened(source):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2]))))


@pytest.mark.parametrize(("side", "multiple"), [(8, 12), (28, 3), (48, 2)])
def test_small_images_are_enlarged_by_a_whole_multiple(side, multiple):
    noise = np.random.default_rng(0).integers(0, 2, (side, side, 1), dtype=np.uint8).repeat(3, axis=2) * 255
    found = thumbnail(Image.fromarray(noise), 96)
    assert found.crisp and found.src.startswith("data:image/png")
    np.testing.assert_array_equal(opened(found.src), noise.repeat(multiple, axis=0).repeat(multiple, axis=1))


@pytest.mark.parametrize(("size", "width"), [((64, 64), 64), ((400, 200), 96)])
def test_larger_images_are_cut_to_the_centre_square(size, width):
    noise = np.random.default_rng(0).integers(0, 100, (size[1], size[0], 3), dtype=np.uint8)
    middle = (size[0] - size[1]) // 2
    noise[:, middle : middle + size[1]] += 100
    found = thumbnail(Image.fromarray(noise), 96)
    assert not found.crisp and found.src.startswith("data:image/jpeg")
    assert opened(found.src).shape == (width, width, 3)
    assert opened(found.src).mean(axis=(0, 2)).min() > 120  # of each column: none is of the sides


def test_the_page_stays_below_its_limit_and_keeps_a_picture_of_every_cluster(page_of, monkeypatch):
    monkeypatch.setattr(report, "MAX_BYTES", 500_000)
    dataset = Pictures(400, side=100)
    page = page_of(dataset, probabilities=one_hot(*range(20), of=20).repeat(20, 1))
    assert 300_000 < len(page.content) <= 600_000
    assert all(page.rows[f"cluster-{k}"] for k in range(20))
    assert len(dataset.fetched) == len(set(dataset.fetched)) <= len(page.sources) + 20


@pytest.mark.parametrize(("clusters", "side"), [(50, 96), (51, 72), (251, 48)])
def test_many_clusters_have_smaller_pictures(page_of, clusters, side):
    page = page_of(Pictures(2, side=100), probabilities=one_hot(0, 1, of=clusters))
    assert opened(page.sources[0]).shape == (side, side, 3)


# -- The page


def test_names_of_files_classes_clusters_and_runs_are_text_never_markup(page_of):
    dataset = Pictures(9, [0] * 9, [NASTY + "class"], names={k: NASTY for k in range(9)}, duplicates=[[0, 1]])
    metrics, names = {NASTY + "metric": 1.0, "hungarian_match": [(0, 0)]}, {0: NASTY + "cluster"}
    page = page_of(
        dataset, 2, metrics, names, title=NASTY + "title", summary={NASTY + "what": NASTY + "value"}
    )
    assert page.content.count("<script") == 2 and "<b>" not in page.content
    assert all(NASTY + what in page.text for what in ("title", "what", "value", "metric", "class", "cluster"))
    assert page.inputs[0] == NASTY + "cluster"
    assert {image["name"] for image in page.data["images"].values()} == {NASTY}


def test_names_that_are_no_utf_8_or_break_lines_do_no_harm(page_of):
    names = {0: b"caf\xe9.png".decode("utf-8", "surrogateescape"), 1: "\ud800\n\0\u2028.png"}
    page = page_of(Pictures(9, names=names), title="\udcff")
    assert page.data["images"]["0"]["name"] == names[0] and page.data["images"]["1"]["name"] == names[1]


def test_curves_are_drawn_for_the_stages_that_logged_numbers(page_of, tmp_path):
    logs = {stage: tmp_path / f"{stage}.jsonl" for stage in ("pretext", "scan")}
    logs["pretext"].write_text('{"epoch": 0, "train/loss": 1.0}\n')
    logs["scan"].write_text('{"note": "nothing yet"}\n')
    page = page_of(Pictures(9), logs=logs)
    assert page.content.count("data:image/svg+xml;base64,") == 1
    assert "pretext" in page.text and "scan" not in page.text


def test_the_page_loads_nothing_and_is_the_same_file_each_time(page_of, tmp_path):
    dataset, metrics = Pictures(30, [0, 1] * 15, ["a", "b"]), {"hungarian_match": [(0, 0), (1, 1)]}
    page = page_of(dataset, 3, metrics)
    assert "://" not in page.content and "default-src 'none'; img-src data:" in page.content
    assert page_of(dataset, 3, metrics).content == page.content
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
