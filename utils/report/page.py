"""The report: a clustering as one HTML page for a person, its pictures within; it asks nothing of a network."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from torch import Tensor

from utils.arrays import floats, integers
from utils.evaluate.clustering import map_clusters
from utils.report.cluster_cards import Cluster, describe_clusters
from utils.report.figures import TIGHT, confusion_figure, confusion_matrix, curves_figure
from utils.report.image_grid import DPI
from utils.storage.files import write_whole

MAX_BYTES = 20_000_000  # of the page
MAX_THUMBNAILS = 48  # of a cluster
NEIGHBORS, LIKELIEST = 5, 3  # shown with an image: its neighbors, and its likeliest clusters
UNSURE, GROUPS, GROUP_SIZE = 24, 24, 8  # shown of all: images between two clusters, groups of duplicates


class Thumbnail(NamedTuple):
    """src: a data URI; crisp: enlarged, so that each of its pixels is a square."""

    src: str
    crisp: bool


def write_report(
    path: str | Path,
    dataset,
    probabilities: Tensor,
    features: Tensor,
    neighbors: Tensor,
    *,
    title: str,
    summary: Mapping[str, str],
    metrics: Mapping[str, Any],
    names: Mapping[int, str],
    logs: Mapping[str, Path],
    duplicates: Sequence[Sequence[int]] = (),
) -> None:
    """Write the page, of at most 20 MB: beyond some 60 clusters with fewer and smaller pictures of each.

    dataset: `len`, `targets`, `classes`, `get_image`, and `name(i)`, the file name. probabilities: (N, K), K >= 2.
    features: (N, D), not normalised. neighbors: int64 (N, T+1), column 0 the image itself. summary: what the run was.
    metrics: of these the numbers are shown, and `hungarian_match` draws the confusion matrix. names: cluster -> the
    name that a person gave, of any of them. logs: stage -> its log.jsonl. duplicates: groups of row numbers.
    """
    probabilities, neighbors = floats(probabilities), integers(neighbors)
    clusters = describe_clusters(dataset, probabilities, floats(features), names)
    predictions = probabilities.argmax(dim=1)  # (N,)
    likeliest = probabilities.topk(2, dim=1).values  # (N, 2)
    unsure = (likeliest[:, 0] - likeliest[:, 1]).argsort(stable=True)[:UNSURE].tolist()
    groups = duplicates[:GROUPS]
    side = 96 if len(clusters) <= 50 else 72 if len(clusters) <= 250 else 48  # pixels

    @cache
    def thumbnail_of(row: int) -> Thumbnail:
        return thumbnail(dataset.get_image(row), side)

    content = {
        "title": title,
        "summary": summary,
        "metrics": {name: value for name, value in metrics.items() if isinstance(value, (int, float))},
        "curves": {stage: svg(figure) for stage, log in logs.items() if (figure := curves_figure(log))},
        "confusion": draw_confusion(dataset, predictions, metrics),
        "clusters": clusters,
        "names": names,
        "num_images": len(dataset),
        "confidences": probabilities.amax(dim=1).tolist(),
        "unsure": unsure,
        "groups": groups,
        "group_size": GROUP_SIZE,
        "num_groups": len(duplicates),
        "name_of": dataset.name,
    }
    # A thumbnail takes about half a byte a pixel, and 500 for its words: a first guess, which the page then corrects.
    limit = min(MAX_THUMBNAILS, max(1, int(0.8 * MAX_BYTES / (len(clusters) * (0.5 * side**2 + 500)))))
    while True:
        rows = choose_images(clusters, unsure, groups, neighbors, predictions.tolist(), limit)
        thumbnails = {row: thumbnail_of(row) for row in rows}
        data = describe_images(dataset, clusters, probabilities, neighbors, thumbnails)
        page = TEMPLATE.render(content, thumbnails=thumbnails, data=data).encode(
            "utf-8", "replace"
        )  # odd file names
        if len(page) <= MAX_BYTES or limit == 1:
            break
        limit = max(1, limit * 3 // 4)
    write_whole({Path(path): page})


def choose_images(
    clusters: Sequence[Cluster],
    unsure: Iterable[int],
    groups: Iterable[Sequence[int]],
    neighbors: Tensor,
    predictions: Sequence[int],
    limit: int,
) -> list[int]:
    """Row numbers of the images to embed, at most `limit` of each cluster: those of the cards, the prototypes first and
    the most and the least confident in turn, then the unsure ones, the duplicates, and neighbors (N, T+1) of the
    images on the cards, the first of all of them before the second of any."""
    chosen: dict[int, None] = {}
    room = [limit] * len(clusters)

    def take(rows: Iterable[int]) -> None:
        for row in rows:
            if row not in chosen and room[predictions[row]]:
                room[predictions[row]] -= 1
                chosen[row] = None

    for cluster in clusters:
        in_turn = chain.from_iterable(zip_longest(cluster.images, cluster.doubtful))
        take(row for row in in_turn if row is not None)
    on_cards = list(chosen)
    take(unsure)
    take(chain.from_iterable(group[:GROUP_SIZE] for group in groups))
    take(neighbors[on_cards, 1 : NEIGHBORS + 1].T.flatten().tolist())
    return list(chosen)


def describe_images(
    dataset,
    clusters: Sequence[Cluster],
    probabilities: Tensor,
    neighbors: Tensor,
    thumbnails: Mapping[int, Thumbnail],
) -> dict[str, Any]:
    """What the dialog says of each image that has a thumbnail, with the picture where no card has it, and the names of
    the neighbors that have none. probabilities: (N, K), neighbors: (N, T+1)."""
    on_cards = {row for cluster in clusters for row in cluster.images + cluster.doubtful}
    images = {}
    for row, picture in thumbnails.items():
        values, likeliest = probabilities[row].sort(descending=True, stable=True)  # (K,) each
        pairs = zip(likeliest[:LIKELIEST].tolist(), values[:LIKELIEST].tolist(), strict=True)
        images[row] = {
            "name": dataset.name(row),
            "clusters": [(cluster, round(value, 4)) for cluster, value in pairs],
            "neighbors": neighbors[row, 1 : NEIGHBORS + 1].tolist(),
            "crisp": picture.crisp,
        }
        if row not in on_cards:
            images[row]["src"] = picture.src
        if dataset.targets is not None and dataset.targets[row] >= 0:
            images[row]["label"] = dataset.classes[int(dataset.targets[row])]
    absent = {row for image in images.values() for row in image["neighbors"]} - images.keys()
    return {"images": images, "names": {row: dataset.name(row) for row in sorted(absent)}}


def thumbnail(image: Image.Image, side: int) -> Thumbnail:
    """The centre square, shrunk to `side` pixels or enlarged by the whole multiple that stays within; as PNG or JPEG,
    whichever is shorter."""
    shortest = min(image.size)
    crisp = 2 * shortest <= side
    width = shortest * (side // shortest) if crisp else min(side, shortest)
    square = ImageOps.fit(
        image, (width, width), Image.Resampling.NEAREST if crisp else Image.Resampling.BICUBIC
    )
    files = {}
    for kind, options in {"png": {}, "jpeg": {"quality": 82}}.items():
        file = io.BytesIO()
        square.save(file, kind, **options)
        files[kind] = file.getvalue()
    kind = min(files, key=lambda kind: len(files[kind]))
    return Thumbnail(data_uri(f"image/{kind}", files[kind]), crisp)


def draw_confusion(dataset, predictions: Tensor, metrics: Mapping[str, Any]) -> str | None:
    """The confusion matrix as a data URI, None where labels gave no matching."""
    if "hungarian_match" not in metrics:
        return None
    matched = map_clusters(predictions, metrics["hungarian_match"])
    return svg(
        confusion_figure(confusion_matrix(dataset.targets, matched, len(dataset.classes)), dataset.classes)
    )


def svg(figure: Figure) -> str:
    """The figure as a data URI, the same bytes each time."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "report"}):
        figure.savefig(file, format="svg", dpi=DPI, transparent=True, metadata={"Date": None}, **TIGHT)
    return data_uri("image/svg+xml", file.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


TEMPLATE = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
).get_template("report.html")
