"""Evaluation of clusters: speed against the published forms, then seconds and memory at a given size.

    OMP_NUM_THREADS=1 python benchmarks/evaluate.py [--rounds 5]
    OMP_NUM_THREADS=1 python benchmarks/evaluate.py [--images 50000 --clusters 1000 --heads 10 --classes 1000]

First table: the forms take turns in one process. Process time, medians, and the ratios with lowest and
highest; both forms must give the same result. Second table: what scan.py does after an epoch, then what
eval.py does, on made-up images. Wall time, in a separate process."""

import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.table import Table, against, parser, ratio, save
from benchmarks.timing import in_turns, peak_memory, process_apart, seconds
from data.augment.steps import Normalize
from data.dataset import ResidentDataset
from data.loader.build import eval_loader
from models.heads import ClusteringModel
from utils.evaluate.clustering import evaluate_clusters, prototypes
from utils.evaluate.label_free import scan_validation
from utils.features import predict
from utils.report.canvas import save_png
from utils.report.figures import TIGHT, matching_figure, plot_prototypes

SIDE = 8  # pixels of a made-up image
FEATURES = 2048  # numbers per image, as from ResNet-50
NEIGHBORS = 5  # of a val image


def made_up_images(number: int, num_classes: int) -> ResidentDataset:
    """Each image is the random pattern of its class, with noise."""
    targets = torch.randint(num_classes, (number,))  # (N,)
    patterns = torch.randint(64, 192, (num_classes, 3, SIDE, SIDE))
    noise = torch.randint(-64, 64, (number, 3, SIDE, SIDE))
    classes = [f"class {i}" for i in range(num_classes)]
    return ResidentDataset((patterns[targets] + noise).byte(), targets, classes)


def stub_model(num_clusters: int, num_heads: int) -> ClusteringModel:
    """Random heads on pixels."""
    backbone = nn.Flatten()
    backbone.features_dim = 3 * SIDE * SIDE
    model = ClusteringModel(backbone, num_clusters, num_heads)
    for head in model.cluster_head:
        nn.init.normal_(head.weight, std=0.5)
    return model


def timed(table: Table, name: str, function, *arguments):
    """The function's result; its time and the peak memory become a row of the table."""
    start = time.perf_counter()
    result = function(*arguments)
    spent = time.perf_counter() - start
    table.row(name, spent, peak_memory())
    return result


def published_validation(probabilities: Tensor, neighbors: Tensor) -> float:
    """The products of all N x N pairs, of which only those of neighbors are read."""
    products = probabilities @ probabilities.T  # (N, N)
    consistency = -products.gather(1, neighbors).log().clamp(min=-100).mean()
    mean = probabilities.mean(dim=0).clamp(min=1e-8)
    return (consistency + (mean * mean.log()).sum()).item()


def our_validation(probabilities: Tensor, neighbors: Tensor) -> float:
    return scan_validation(probabilities, neighbors)["total_loss"]


def published_matching(predictions: Tensor, targets: Tensor, number: int) -> list[tuple]:
    """Each pair of a cluster and a class is counted separately."""
    table = np.zeros((number, number))
    for cluster in range(number):
        for label in range(number):
            table[cluster, label] = ((predictions == cluster) & (targets == label)).sum().item()
    return list(zip(*linear_sum_assignment(-table), strict=True))


def our_matching(predictions: Tensor, targets: Tensor, number: int) -> list[tuple]:
    table = (predictions * number + targets).bincount(minlength=number**2).view(number, number)
    return list(zip(*linear_sum_assignment(table.numpy(), maximize=True), strict=True))


def compare_all(rounds: int) -> Table:
    """The table of both forms of validation and matching."""
    table = Table("part", "times as fast as published", "bar", "published, ms", "ours, ms")

    def compare(name: str, published, ours, *inputs, bar: float | None = None) -> None:
        result, expected = ours(*inputs), published(*inputs)
        assert result == expected or math.isclose(result, expected, abs_tol=1e-5)
        turns = {
            "published": lambda: 1000 * seconds(lambda: published(*inputs)),
            "ours": lambda: 1000 * seconds(lambda: ours(*inputs)),
        }
        slow, fast = in_turns(turns, rounds).values()
        faster = ratio(slow, fast)
        table.row(name, faster, against(bar, faster.median), statistics.median(slow), statistics.median(fast))

    for images in (5_000, 10_000, 20_000):
        inputs = torch.rand(images, 10).softmax(dim=1), torch.randint(images, (images, NEIGHBORS + 1))
        name, bar = f"SCAN's validation, N = {images:,}, K = 10", 100 if images == 10_000 else None
        compare(name, published_validation, our_validation, *inputs, bar=bar)
    for number in (10, 100):
        inputs = *torch.randint(number, (2, 50_000)), number
        name, bar = f"matching, N = 50,000, K = {number}", 1000 if number == 100 else None
        compare(name, published_matching, our_matching, *inputs, bar=bar)
    return table


def evaluate(arguments) -> Table:
    """The table of the parts of scan.py and eval.py."""
    torch.manual_seed(0)
    table = Table("part", "seconds", "peak memory so far, GB")
    dataset = timed(table, "start, data", made_up_images, arguments.images, arguments.classes)
    model = stub_model(arguments.clusters, arguments.heads)
    loader = eval_loader(dataset, (Normalize([0.5] * 3, [0.25] * 3),), torch.device("cpu"))
    others = torch.randint(arguments.images, (arguments.images, NEIGHBORS))
    neighbors = torch.cat([torch.arange(arguments.images)[:, None], others], dim=1)  # (N, T+1)

    heads = timed(table, "predict, all heads", predict, model, loader)
    timed(table, "scan_validation, all heads", lambda: [scan_validation(head, neighbors) for head in heads])
    probabilities = heads[0]
    metrics = timed(table, "evaluate_clusters, one head", evaluate_clusters, probabilities, dataset.targets)
    heads.clear()  # eval.py needs only one
    features = torch.rand(arguments.images, FEATURES)  # (N, D)
    chosen = timed(table, "prototypes, one head", prototypes, probabilities, features)
    predictions = probabilities.argmax(dim=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figure.png"

        def draw_confusion():
            save_png(matching_figure(dataset, predictions, metrics), path, **TIGHT)

        timed(table, "confusion_matrix.png", draw_confusion)
        names = {cluster: f"cluster {cluster}" for cluster in chosen}
        timed(table, "prototypes.png, all pages", plot_prototypes, dataset, chosen, names, path)
    return table


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--images", type=int, default=50_000)
    options.add_argument("--clusters", type=int, default=1000)
    options.add_argument("--heads", type=int, default=10)
    options.add_argument("--classes", type=int, default=1000)
    arguments = options.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with process_apart() as apart:  # started now, while the peak memory to inherit is low
        ratios = compare_all(arguments.rounds)
        print(flush=True)
        save(arguments.json, ratios, apart.apply(evaluate, (arguments,)))


if __name__ == "__main__":
    main()
