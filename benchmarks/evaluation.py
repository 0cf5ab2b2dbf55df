"""Seconds and memory of judging a clustering of a given size, on made-up images: what scan.py does after an epoch, then
what eval.py does.

OMP_NUM_THREADS=1 python benchmarks/evaluation.py [--images 50000] [--clusters 1000] [--heads 10] [--classes 1000]
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.augment_steps import Normalize
from data.dataset import ResidentDataset
from models.heads import ClusteringModel
from utils.evaluate import evaluate_clusters, prototypes
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


if __name__ == "__main__":
    main()
