"""Seconds and memory of judging a clustering of a given size, on made-up images: what scan.py does after an epoch, then
what eval.py does.

OMP_NUM_THREADS=1 python benchmarks/evaluation.py [--images 50000] [--clusters 1000] [--heads 10] [--classes 1000]
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.augment import process_time
from data.augment_steps import Normalize
from data.dataset import ResidentDataset
from models.heads import ClusteringModel
from utils.evaluate import contingency_table, evaluate_clusters, prototypes
from utils.features import eval_loader, predict
from utils.label_free import scan_validation
from utils.visualize import plot_matching, plot_prototypes

SIDE, FEATURES, NEIGHBORS = 8, 2048, 5  # pixels of a made-up image; of ResNet-50; of a val image


def made_up_images(number: int, num_classes: int) -> ResidentDataset:
    """A random picture for each class, and noise on it for each image."""
    targets = torch.randint(num_classes, (number,))  # (N,)
    pictures = torch.randint(64, 192, (num_classes, 3, SIDE, SIDE))
    noise = torch.randint(-64, 64, (number, 3, SIDE, SIDE))
    return ResidentDataset((pictures[targets] + noise).byte(), targets, [f"class {i}" for i in range(num_classes)])


def stub_model(num_clusters: int, num_heads: int) -> ClusteringModel:
    """Random heads on the pixels."""
    backbone = nn.Flatten()
    backbone.features_dim = 3 * SIDE * SIDE
    model = ClusteringModel(backbone, num_clusters, num_heads)
    for head in model.cluster_head:
        nn.init.normal_(head.weight, std=0.5)
    return model


def timed(name: str, function, *arguments):
    """Call it and print a line of the table."""
    start = time.perf_counter()
    result = function(*arguments)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB
    print(f"| {name} | {seconds:.2f} | {peak:.2f} |", flush=True)
    return result


def published_validation(probabilities: torch.Tensor, neighbors: torch.Tensor) -> float:
    """The published form of `scan_validation`: the products of all N x N pairs, of which the listed ones are read."""
    products = probabilities @ probabilities.T  # (N, N)
    consistency = -products.gather(1, neighbors).log().clamp(min=-100).mean()
    mean = probabilities.mean(dim=0).clamp(min=1e-8)
    return (consistency + (mean * mean.log()).sum()).item()


def published_matching(predictions: torch.Tensor, targets: torch.Tensor, number: int) -> list[tuple]:
    """The published form of the matching: each pair of a cluster and a class is counted on its own."""
    table = np.zeros((number, number))
    for cluster in range(number):
        for label in range(number):
            table[cluster, label] = ((predictions == cluster) & (targets == label)).sum().item()
    return list(zip(*linear_sum_assignment(-table), strict=True))


def our_matching(predictions: torch.Tensor, targets: torch.Tensor, number: int) -> list[tuple]:
    table = contingency_table(predictions, targets, number)
    return list(zip(*linear_sum_assignment(table.numpy(), maximize=True), strict=True))


def print_ratios() -> None:
    """Ours beside the published forms, taking turns; the same values come out."""
    probabilities, neighbors = torch.rand(10_000, 10).softmax(dim=1), torch.randint(10_000, (10_000, NEIGHBORS + 1))
    predictions, targets = torch.randint(100, (2, 50_000))
    rows = {
        "SCAN's validation, N = 10,000, K = 10": (
            lambda: published_validation(probabilities, neighbors),
            lambda: scan_validation(probabilities, neighbors)["total_loss"],
        ),
        "matching, N = 50,000, K = 100": (
            lambda: published_matching(predictions, targets, 100),
            lambda: our_matching(predictions, targets, 100),
        ),
    }
    print("| part | times as fast as published | published, ms | ours, ms |\n| --- | --- | --- | --- |")
    for name, (published, ours) in rows.items():
        assert published() == (pytest.approx(ours(), abs=1e-5) if "valid" in name else ours())
        times = [[1000 * process_time(act) for act in (published, ours)] for _ in range(5)]
        ratios = [slow / fast for slow, fast in times]
        slow, fast = (statistics.median(column) for column in zip(*times, strict=True))
        spread = f"{statistics.median(ratios):.0f} ({min(ratios):.0f} to {max(ratios):.0f})"
        print(f"| {name} | {spread} | {slow:.1f} | {fast:.2f} |")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--heads", type=int, default=10)
    parser.add_argument("--classes", type=int, default=1000)
    arguments = parser.parse_args(argv)
    torch.manual_seed(0)

    print("| part | seconds | peak memory so far (GB) |\n| --- | --- | --- |")
    dataset = timed("start, data", made_up_images, arguments.images, arguments.classes)
    model = stub_model(arguments.clusters, arguments.heads)
    loader = eval_loader(dataset, (Normalize([0.5] * 3, [0.25] * 3),), torch.device("cpu"))
    others = torch.randint(arguments.images, (arguments.images, NEIGHBORS))
    neighbors = torch.cat([torch.arange(arguments.images)[:, None], others], dim=1)  # (N, T+1)

    heads = timed("predict, all heads", predict, model, loader)
    timed("scan_validation, all heads", lambda: [scan_validation(head, neighbors) for head in heads])
    probabilities = heads[0]
    metrics = timed("evaluate_clusters, one head", evaluate_clusters, probabilities, dataset.targets)
    heads.clear()  # eval.py keeps one
    features = torch.rand(arguments.images, FEATURES)  # (N, D)
    chosen = timed("prototypes, one head", prototypes, probabilities, features)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        timed("confusion_matrix.png", plot_matching, dataset, probabilities.argmax(dim=1), metrics, path)
        names = {cluster: f"cluster {cluster}" for cluster in chosen}
        timed("prototypes.png, all pages", plot_prototypes, dataset, chosen, names, path)
    print()
    print_ratios()


if __name__ == "__main__":
    main()
