"""The report: a clustering as one HTML page with all its images inside, so that it loads nothing else."""

import base64
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageOps
from torch import Tensor

from utils.report.canvas import encoded, labels_of, own_settings
from utils.report.cluster_cards import Clustering, describe_clusters
from utils.report.figures import TIGHT, curves_figure, matching_figure
from utils.storage.files import write_whole

MAX_BYTES = 16_000_000  # of the thumbnails; the rest of the page takes a few more
TEXT_BYTES = 500  # in the page, beside each thumbnail
MAX_THUMBNAILS = 48  # of a cluster
NEIGHBORS_SHOWN, LIKELIEST = 5, 3  # of an image: its neighbors, and its likeliest clusters
UNSURE, GROUPS, GROUP_SIZE = 24, 24, 8  # images between clusters; groups of duplicates, and images of a group


class Thumbnail(NamedTuple):
    src: str  # a data URI
    crisp: bool  # enlarged, so that each pixel is a square


def write_report(path: Path, clustering: Clustering, neighbors: Tensor, about: Mapping[str, Any]) -> None:
    """Write the page, of at most some 20 MB: more than 50 clusters get fewer and smaller images.

    neighbors: int64 (N, T+1), column 0 the image itself. about: the run's `title`, `summary`, {what: text},
    and `logs`, {stage: its log.jsonl}."""
    from jinja2 import Environment, StrictUndefined

    dataset, probabilities, *_ = clustering
    clusters = describe_clusters(clustering)
    predictions = probabilities.argmax(dim=1)  # (N,)
    likeliest = probabilities.topk(2, dim=1).values  # (N, 2)
    unsure = (likeliest[:, 0] - likeliest[:, 1]).argsort(stable=True)[:UNSURE].tolist()
    groups = dataset.duplicates()
    side = 96 if len(clusters) <= 50 else 72 if len(clusters) <= 250 else 48  # pixels
    others = chain(unsure, *(group[:GROUP_SIZE] for group in groups[:GROUPS]))
    thumbnails = choose_thumbnails(
        clusters, others, neighbors, predictions.tolist(), lambda row: thumbnail(dataset.get_image(row), side)
    )
    curves = {stage: curves_figure(log) for stage, log in about["logs"].items()}
    confusion = matching_figure(dataset, predictions, clustering.metrics)
    options = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    template = Path(__file__).with_name("report.html").read_text("utf-8")
    page = Environment(autoescape=True, **options).from_string(template)  # names are text, never markup
    content = page.render(
        **clustering._asdict(),
        **about,
        curves={stage: to_svg(figure) for stage, figure in curves.items() if figure},
        confusion=confusion and to_svg(confusion),
        clusters=clusters,
        confidences=likeliest[:, 0].tolist(),
        unsure=unsure,
        groups=groups[:GROUPS],
        group_size=GROUP_SIZE,
        num_groups=len(groups),
        thumbnails=thumbnails,
        data=describe_images(clustering, clusters, neighbors, thumbnails),
    )
    write_whole({path: content.encode("utf-8", "replace")})  # a file name may be no text


def choose_thumbnails(clusters, others, neighbors, predictions, thumbnail_of) -> dict[int, Thumbnail]:
    """The images to embed, by row number: at most 48 of each cluster, and at least one.

    First come those of the cards: the prototypes, then most and least confident in turn. Then `others`,
    and the neighbors (N, T+1) of the images on the cards, all first neighbors before the second ones."""
    chosen, room = {}, [MAX_THUMBNAILS] * len(clusters)
    bytes_left = [MAX_BYTES // len(clusters)] * len(clusters)

    def take(rows: Iterable[int]) -> None:
        for row in rows:
            cluster = predictions[row]
            if row in chosen or not room[cluster]:
                continue
            picture = thumbnail_of(row)
            bytes_left[cluster] -= len(picture.src) + TEXT_BYTES
            if bytes_left[cluster] >= 0 or room[cluster] == MAX_THUMBNAILS:
                chosen[row] = picture
            room[cluster] = room[cluster] - 1 if bytes_left[cluster] > 0 else 0

    for cluster in clusters:
        in_turn = chain.from_iterable(zip_longest(cluster.images, cluster.doubtful))
        take(row for row in in_turn if row is not None)
    on_cards = list(chosen)
    take(others)
    take(neighbors[on_cards, 1 : NEIGHBORS_SHOWN + 1].T.flatten().tolist())
    return chosen


def describe_images(clustering: Clustering, clusters: list, neighbors: Tensor, thumbnails) -> dict[str, dict]:
    """What the dialog shows of each image with a thumbnail, and the names of neighbors without one.

    An image on a card is not repeated here. neighbors: (N, T+1)."""
    dataset, labels = clustering.dataset, labels_of(clustering.dataset)
    on_cards = {row for cluster in clusters for row in cluster.images + cluster.doubtful}
    images = {}
    for row, picture in thumbnails.items():
        values, likeliest = clustering.probabilities[row].sort(descending=True, stable=True)  # (K,) each
        pairs = zip(likeliest[:LIKELIEST].tolist(), values[:LIKELIEST].tolist(), strict=True)
        images[row] = {
            "name": dataset.name(row),
            "clusters": [(cluster, round(value, 4)) for cluster, value in pairs],
            "neighbors": neighbors[row, 1 : NEIGHBORS_SHOWN + 1].tolist(),
            "crisp": picture.crisp,
        }
        if row not in on_cards:
            images[row]["src"] = picture.src
        if labels[row]:
            images[row]["label"] = labels[row]
    absent = {row for image in images.values() for row in image["neighbors"]} - images.keys()
    return {"images": images, "names": {row: dataset.name(row) for row in sorted(absent)}}


def thumbnail(image: Image.Image, side: int) -> Thumbnail:
    """The centre square, at most `side` pixels wide, as PNG or JPEG, whichever is shorter.

    A small image is enlarged by a whole multiple."""
    shortest = min(image.size)
    crisp = 2 * shortest <= side
    width = shortest * (side // shortest) if crisp else min(side, shortest)
    method = Image.Resampling.NEAREST if crisp else Image.Resampling.BICUBIC
    square = ImageOps.fit(image, (width, width), method)
    uris = [data_uri(square.save, kind, quality=82) for kind in ("png", "jpeg")]  # PNG has no quality
    return Thumbnail(min(uris, key=len), crisp)


@own_settings()
def to_svg(figure) -> str:
    """The figure as a data URI, with the same bytes each time."""
    from matplotlib import rcParams

    rcParams["svg.hashsalt"] = "report"
    return data_uri(figure.savefig, "svg", transparent=True, metadata={"Date": None}, **TIGHT)


def data_uri(save: Callable, kind: str, **options) -> str:
    content = base64.b64encode(encoded(save, kind, **options)).decode()
    return f"data:image/{'svg+xml' if kind == 'svg' else kind};base64,{content}"
