"""The report as a person meets it: in Chromium, which chromedriver steers over plain HTTP (W3C WebDriver)."""

import csv
import json
import re
import shutil
import subprocess
import time
import urllib.request

import pytest
import torch

from data.dataset import ResidentDataset
from data.datasets.digits import read_digits
from utils.evaluate.clustering import evaluate_clusters
from utils.report.cluster_cards import Clustering
from utils.report.page import write_report

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"]
NASTY = '<script>document.title = "broken"</script> "$x$", é'
ESCAPE, RIGHT, LEFT, TAB, ENTER = "\ue00c", "\ue014", "\ue012", "\ue004", "\ue007"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromedriver on the PATH"),
]


class NamedDigits(ResidentDataset):
    def name(self, index):
        return f"{NASTY} {index}.png"

    def duplicates(self):
        return [[0, 1]]


class Browser:
    """One window of a headless Chromium, 1200 x 900."""

    def __init__(self, downloads):
        self.process = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
        port = next(re.search(r"on port (\d+)\.", line) for line in self.process.stdout if "success" in line)[
            1
        ]
        self.address = f"http://127.0.0.1:{port}"
        preferences = {"download.default_directory": str(downloads)}
        options = {"binary": BROWSER, "args": ARGUMENTS, "prefs": preferences}
        capabilities = {"goog:loggingPrefs": {"browser": "ALL"}, "goog:chromeOptions": options}
        session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self.address += f"/session/{session['sessionId']}"

    def call(self, method, path, body=None):
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, content, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def run(self, script):
        return self.call("POST", "/execute/sync", {"script": f"return {script}", "args": []})

    def click(self, selector):
        element = self.call("POST", "/element", {"using": "css selector", "value": selector})
        self.call("POST", f"/element/{next(iter(element.values()))}/click", {})

    def press(self, *keys):
        for key in keys:
            strokes = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
            self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": strokes}]})


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The digits, in ten random clusters and an empty one, with random neighbors."""
    digits, generator = read_digits("val"), torch.Generator().manual_seed(0)
    dataset = NamedDigits(digits.images, digits.targets, [f"</script>{name}" for name in digits.classes])
    logits = 3 * torch.randn(len(dataset), 11, generator=generator)
    logits[:, 10] = -100
    neighbors = (torch.arange(len(dataset))[:, None] + 7 * torch.arange(6)) % len(dataset)
    path = tmp_path_factory.mktemp("report") / "report.html"
    log = path.with_name("log.jsonl")
    log.write_text('{"epoch": 0, "train/loss": 1.0}\n{"epoch": 1, "train/loss": 0.5}\n')
    metrics = evaluate_clusters(logits.softmax(dim=1), dataset.targets)
    pixels = dataset.images[:, 0].flatten(1)  # (N, 256)
    clustering = Clustering(dataset, logits.softmax(dim=1), pixels, metrics, {2: NASTY})
    about = {"title": NASTY, "summary": {"data set": "digits"}, "logs": {"scan": log}, "mark": "sha256:12"}
    write_report(path, clustering, neighbors, about)
    return path, neighbors


@pytest.fixture(scope="module")
def browser(report):
    browser = Browser(report[0].parent)
    yield browser
    browser.call("DELETE", "")
    browser.process.terminate()
    browser.process.wait(timeout=20)


@pytest.fixture(autouse=True)
def opened(browser, report):
    """The page, loaded again. At the end it has no error in its log and has loaded nothing else."""
    browser.call("POST", "/url", {"url": report[0].as_uri()})
    yield
    assert browser.call("POST", "/se/log", {"type": "browser"}) == []
    assert browser.run("performance.getEntriesByType('resource').map(entry => entry.name)") == []


SHOWN = "document.querySelector('dialog').open && document.getElementById('file').textContent"
FOCUSED = "document.activeElement.dataset.image ?? null"


def rows_of(browser, selector):
    pictures = f"[...document.querySelectorAll('{selector} .picture')]"
    return browser.run(f"{pictures}.map(picture => Number(picture.dataset.image))")


def name(row):
    return f"{NASTY} {row}.png"


def test_every_picture_is_there_and_names_are_shown_as_they_are(browser):
    assert browser.run("document.querySelectorAll('.card').length") == 11
    assert browser.run("[...document.images].filter(i => i.src && !i.naturalWidth).length") == 0
    assert browser.run("document.querySelectorAll('.picture:not(:has(img))').length") == 0
    assert browser.run("document.title") == NASTY
    assert browser.run("document.querySelector('#cluster-2 h3').textContent") == NASTY
    assert browser.run("document.querySelectorAll('script').length") == 2
    assert browser.run("document.querySelector('.classes').textContent").count("</script>") >= 1


@pytest.mark.parametrize("width", [400, 800, 1400])
def test_the_page_is_never_wider_than_its_window(browser, width):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics}
    browser.call("POST", "/goog/cdp/execute", command)
    browser.click("#cluster-3 .strip .picture")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("(d => d.scrollWidth <= d.clientWidth)(document.querySelector('dialog'))")


def test_an_image_opens_with_its_neighbors_and_they_lead_on(browser, report):
    _, neighbors = report
    row = rows_of(browser, "#cluster-4")[1]
    browser.click("#cluster-4 .strip .picture")
    assert browser.run(SHOWN) == name(row)
    assert browser.run("document.getElementById('label').textContent").startswith("label: </script>")
    assert browser.run("document.querySelectorAll('.chances li').length") == 3
    texts = "map(e => e.querySelector('img')?.alt ?? e.textContent)"
    listed = browser.run(f"[...document.querySelector('.near').children].{texts}")
    assert listed == [name(other) for other in neighbors[row, 1:].tolist()]
    following = rows_of(browser, ".near")[0]
    browser.click(".near .picture")
    assert browser.run(SHOWN) == name(following)


def test_arrow_keys_go_round_the_images_of_the_card_and_escape_gives_the_focus_back(browser):
    rows = rows_of(browser, "#cluster-1")
    browser.click("#cluster-1 .picture")
    seen = [browser.run(SHOWN)]
    for key in [RIGHT, RIGHT, LEFT, LEFT, LEFT]:
        browser.press(key)
        seen.append(browser.run(SHOWN))
    assert seen == [name(rows[i]) for i in (0, 1, 2, 1, 0, -1)]
    browser.press(ESCAPE)
    assert browser.run(SHOWN) is False and browser.run(FOCUSED) == str(rows[0])


def test_the_keyboard_alone_reaches_an_image_and_shows_where_it_is(browser):
    row = rows_of(browser, "#cluster-0")[0]
    for _ in range(60):
        browser.press(TAB)
        if browser.run(FOCUSED) == str(row):
            break
    assert browser.run("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2
    browser.press(ENTER)
    assert browser.run(SHOWN) == name(row)


def test_the_link_of_a_cluster_closes_the_image_and_leads_to_its_card(browser):
    browser.click("#unsure .picture")
    browser.click(".chances a")
    target = browser.run("document.querySelector('.card:target').id")
    assert browser.run(SHOWN) is False and target.startswith("cluster-")


def test_a_typed_name_stands_everywhere_and_in_the_downloaded_file(browser, report):
    typed = 'sevens, "crossed"'
    browser.run("document.querySelector('[data-cluster=\"7\"]').focus()")
    browser.press(*typed)
    places = "[...document.querySelectorAll('[data-name=\"7\"]')]"
    texts = browser.run(f"{places}.map(place => place.textContent)")
    assert len(texts) >= 2 and set(texts) == {typed}
    browser.click("#download")
    path = report[0].with_name("names.csv")
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    with open(path, newline="", encoding="utf-8") as file:
        rows = [["cluster", "name", "model"], ["2", NASTY, "sha256:12"], ["7", typed, "sha256:12"]]
        assert list(csv.reader(file)) == rows
