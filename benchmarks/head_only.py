"""A step of SCAN with a frozen backbone: new views through the network, against kept features of views.

OMP_NUM_THREADS=1 python benchmarks/head_only.py [--backbone resnet18 --size 32 --batch 128 --classes 10]
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from easydict import EasyDict

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.augment import train_transform
from data.dataset import ResidentDataset
from data.loader import build_loader
from data.loader.features import FeatureLoader
from losses import SCANLoss
from models import build_model
from models.heads import ClusterHeads
from utils.features import extract_features

HEADS, STEPS, KEPT_STEPS, HEAD_STEPS, VIEWS = 10, 3, 50, 15, 2
EVAL_BATCH = 64


def config(arguments) -> EasyDict:
    normalize = {"mean": [0.5] * 3, "std": [0.25] * 3}
    return EasyDict(
        setup="scan",
        backbone=arguments.backbone,
        train_db_name="cifar-10" if arguments.size < 96 else "imagenet",
        num_classes=arguments.classes,
        num_heads=HEADS,
        model_kwargs={"stem": "auto", "width": 64},
        augmentation_strategy="simclr",
        augmentation_kwargs={
            "random_resized_crop": {"size": arguments.size, "scale": [0.2, 1.0]},
            "color_jitter_random_apply": {"p": 0.8},
            "color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
            "random_grayscale": {"p": 0.2},
            "normalize": normalize,
        },
    )


def seconds_a_step(network, loader, optimizer, steps: int) -> float:
    """CPU time of a step: the batch, the network, the loss of every head, and the optimizer."""
    criterion, batches = SCANLoss(5.0), iter(loader)
    start = time.process_time()
    for _ in range(steps):
        anchors, neighbors = next(batches).views
        pairs = zip(network(anchors), network(neighbors), strict=True)
        loss = torch.stack([criterion(anchor, neighbor).total for anchor, neighbor in pairs]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.process_time() - start) / steps


def heads_at_once() -> str:
    """Ten heads as one matrix product and one after another: forward and backward of 1,024 pairs, interleaved."""
    heads, criterion = ClusterHeads(2048, 100, HEADS), SCANLoss(5.0)
    anchors, neighbors = torch.randn(2, 1024, 2048)
    ways = {"one product": heads, "one after another": lambda features: [head(features) for head in heads]}
    seconds = {name: [] for name in ways}
    for _ in range(HEAD_STEPS):
        for name, network in ways.items():
            start = time.process_time()
            pairs = zip(network(anchors), network(neighbors), strict=True)
            heads.zero_grad()
            torch.stack([criterion(anchor, neighbor).total for anchor, neighbor in pairs]).sum().backward()
            seconds[name].append(time.process_time() - start)
    together, apart = (statistics.median(times) for times in seconds.values())
    return (
        f"10 heads of 100 clusters: {1000 * together:.0f} ms as one product, {1000 * apart:.0f} ms one after another, "
        f"x{apart / together:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--classes", type=int, default=10)
    arguments = parser.parse_args()
    cfg = config(arguments)
    torch.manual_seed(0)
    side = arguments.size if arguments.size < 96 else 256
    images = torch.randint(256, (arguments.batch * max(STEPS, 1), 3, side, side), dtype=torch.uint8)
    dataset = ResidentDataset(images, None, [])
    neighbors = torch.randint(len(images), (len(images), 21))
    strategy = train_transform(cfg.augmentation_strategy, cfg.augmentation_kwargs)
    model = build_model(cfg).to(memory_format=torch.channels_last)
    model.backbone.requires_grad_(False)
    model.backbone.eval()
    optimizer = torch.optim.SGD(model.cluster_head.parameters(), lr=1e-3, momentum=0.9)
    options = {"train": True, "neighbors": neighbors}
    new = seconds_a_step(
        model, build_loader(dataset, [strategy] * 2, arguments.batch, **options), optimizer, STEPS
    )

    kept = build_loader(dataset, [strategy], EVAL_BATCH)
    start = time.process_time()
    features = torch.stack(
        [extract_features(model.backbone, kept)] * VIEWS
    )  # (V, N, D); the same view is as quick
    a_view = (time.process_time() - start) / len(images)
    big = ResidentDataset(images[:1].expand(arguments.batch * KEPT_STEPS, -1, -1, -1), None, [])
    features = features.repeat(1, -(-len(big) // len(images)), 1)[:, : len(big)]
    neighbors = torch.randint(len(big), (len(big), 21))
    loader = FeatureLoader(features, big, [strategy] * 2, arguments.batch, "cpu", True, neighbors, 0)
    old = seconds_a_step(model.cluster_head, loader, optimizer, KEPT_STEPS)
    print(
        "| backbone | px | batch | classes | new views, s a step | kept views, s a step | ratio | ms a kept view |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    case = f"| {arguments.backbone} | {arguments.size} | {arguments.batch} | {arguments.classes}"
    print(f"{case} | {new:.3f} | {old:.4f} | {new / old:.0f} | {1000 * a_view:.1f} |")
    print(heads_at_once())


if __name__ == "__main__":
    main()
