"""The report as a person meets it: in Chromium, which chromedriver steers over plain HTTP (W3C WebDriver)."""

import csv
import json
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest
import torch
from sklearn.cluster import KMeans
from torch.nn import functional as F

from data.dataset import ResidentDataset
from data.datasets.digits import read_digits
from utils.evaluate.clustering import evaluate_clusters
from utils.neighbors.search import mine_neighbors
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
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.process = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL)
        self.address = f"http://127.0.0.1:{port}"
        try:
            self.wait_for(self.answers)
            preferences = {"download.default_directory": str(downloads)}
            options = {"binary": BROWSER, "args": ARGUMENTS, "prefs": preferences}
            capabilities = {"goog:loggingPrefs": {"browser": "ALL"}, "goog:chromeOptions": options}
            session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
            self.address += f"/session/{session['sessionId']}"
        except BaseException:
            self.process.kill()
            raise

    def call(self, method, path, body=None):
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, content, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def answers(self):
        try:
            return self.call("GET", "/status")["ready"]
        except OSError:
            return False

    def wait_for(self, condition, seconds=20):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the browser did not get there"
            time.sleep(0.05)

    def run(self, script):
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def emulate(self, command, params):
        self.call("POST", "/goog/cdp/execute", {"cmd": f"Emulation.{command}", "params": params})

    def click(self, selector):
        element = self.call("POST", "/element", {"using": "css selector", "value": selector})
        self.call("POST", f"/element/{next(iter(element.values()))}/click", {})

    def press(self, *keys):
        for key in keys:
            strokes = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
            actions = [{"type": "key", "id": "keyboard", "actions": strokes}]
            self.call("POST", "/actions", {"actions": actions})

    def end(self):
        try:
            self.call("DELETE", "")
        finally:
            self.process.terminate()
            self.process.wait(timeout=20)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The digits by k-means on their pixels, and an eleventh, empty cluster."""
    digits = read_digits("val")
    dataset = NamedDigits(digits.images, digits.targets, [f"</script>{name}" for name in digits.classes])
    pixels = dataset.images[:, 0].flatten(1).float() / 255  # (N, 256)
    distances = KMeans(10, n_init=1, random_state=0).fit(pixels.numpy()).transform(pixels.numpy())
    probabilities = F.pad(torch.from_numpy(-(distances**2)).softmax(dim=1), (0, 1))  # (N, 11)
    neighbors = mine_neighbors(F.normalize(pixels), 5, "torch")
    path = tmp_path_factory.mktemp("report") / "report.html"
    log = path.with_name("log.jsonl")
    log.write_text("".join(f'{{"epoch": {epoch}, "train/loss": {1 / (epoch + 1)}}}\n' for epoch in range(9)))
    metrics = evaluate_clusters(probabilities, dataset.targets)
    clustering = Clustering(dataset, probabilities, pixels, metrics, {2: NASTY})
    about = {"title": NASTY, "summary": {"data set": "digits"}, "logs": {"scan": log}}
    write_report(path, clustering, neighbors, about)
    return path, neighbors


@pytest.fixture(scope="module")
def browser(report):
    browser = Browser(report[0].parent)
    try:
        yield browser
    finally:
        browser.end()


@pytest.fixture(autouse=True)
def opened(browser, report):
    """The page, loaded again. At the end it has no error in its log and has loaded nothing else."""
    browser.call("POST", "/url", {"url": report[0].as_uri()})
    yield
    assert browser.call("POST", "/se/log", {"type": "browser"}) == []
    assert browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)") == []


SHOWN = "return document.querySelector('dialog').open && document.getElementById('file').textContent"
FOCUSED = "return document.activeElement.dataset.image ?? null"


def rows_of(browser, selector):
    script = f"return [...document.querySelectorAll('{selector} .picture')].map(b => Number(b.dataset.image))"
    return browser.run(script)


def name(row):
    return f"{NASTY} {row}.png"


def test_every_picture_is_there_and_names_are_shown_as_they_are(browser):
    assert browser.run("return document.querySelectorAll('.card').length") == 11
    assert browser.run("return [...document.images].filter(i => i.src && !i.naturalWidth).length") == 0
    assert browser.run("return document.querySelectorAll('.picture:not(:has(img))').length") == 0
    assert browser.run("return document.title") == NASTY
    assert browser.run("return document.querySelector('#cluster-2 h3').textContent") == NASTY
    assert browser.run("return document.querySelectorAll('script').length") == 2
    assert browser.run("return document.querySelector('.classes').textContent").count("</script>") >= 1


@pytest.mark.parametrize("width", [400, 800, 1400])
def test_the_page_is_never_wider_than_its_window(browser, width):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.emulate("setDeviceMetricsOverride", metrics)
    browser.click("#cluster-3 .strip .picture")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run("const d = document.querySelector('dialog'); return d.scrollWidth <= d.clientWidth")
    browser.emulate("clearDeviceMetricsOverride", {})


def test_an_image_opens_with_its_neighbors_and_they_lead_on(browser, report):
    _, neighbors = report
    row = rows_of(browser, "#cluster-4")[1]
    browser.click("#cluster-4 .strip .picture")
    assert browser.run(SHOWN) == name(row)
    assert browser.run("return document.getElementById('label').textContent").startswith("label: </script>")
    assert browser.run("return document.querySelectorAll('.chances li').length") == 3
    texts = "map(e => e.querySelector('img')?.alt ?? e.textContent)"
    listed = browser.run(f"return [...document.querySelector('.near').children].{texts}")
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
    browser.run("document.querySelector('#cluster-0 .picture').previousElementSibling?.scrollIntoView()")
    for _ in range(60):
        browser.press(TAB)
        if browser.run(FOCUSED) == str(row):
            break
    assert browser.run("return parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2
    browser.press(ENTER)
    assert browser.run(SHOWN) == name(row)


def test_the_link_of_a_cluster_closes_the_image_and_leads_to_its_card(browser):
    browser.click("#unsure .picture")
    browser.click(".chances a")
    target = browser.run("return document.querySelector('.card:target').id")
    assert browser.run(SHOWN) is False and target.startswith("cluster-")


def test_a_typed_name_stands_everywhere_and_in_the_downloaded_file(browser, report):
    typed = 'sevens, "crossed"'
    browser.run("document.querySelector('[data-cluster=\"7\"]').focus()")
    browser.press(*typed)
    texts = browser.run(
        "return [...document.querySelectorAll('[data-name=\"7\"]')].map(place => place.textContent)"
    )
    assert len(texts) >= 2 and set(texts) == {typed}
    browser.click("#download")
    path = report[0].with_name("names.csv")
    browser.wait_for(path.exists)
    with open(path, newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["cluster", "name"], ["2", NASTY], ["7", typed]]
