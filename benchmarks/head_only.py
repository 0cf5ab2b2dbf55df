"""A step of SCAN with a frozen backbone: new views through the network, against cached features of views.

    OMP_NUM_THREADS=1 python benchmarks/head_only.py [--backbone resnet18 --size 32 --batch 128 --classes 10]

CPU time of the steps of scan.py's own `train_epoch`, ten heads."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.epochs import train_steps
from benchmarks.table import Table, parser, save
from benchmarks.timing import seconds
from data.augment import train_transform
from data.dataset import ResidentDataset
from data.loader import build_loader
from data.loader.features import FeatureLoader
from models import build_model
from utils.config import load_config
from utils.features import extract_features
from utils.optimizers import build_optimizer

STEPS, CACHED_STEPS, VIEWS, NEIGHBORS = 3, 50, 2, 20
EVAL_BATCH = 64
CPU = torch.device("cpu")


def config(arguments, cached_views: int):
    """The recipe of ImageNet with the network and the sizes of the command line."""
    overrides = {
        "backbone": arguments.backbone,
        "model_kwargs.stem": "cifar" if arguments.size < 96 else "imagenet",
        "num_classes": arguments.classes,
        "num_heads": 10,
        "batch_size": arguments.batch,
        "augmentation_kwargs.random_resized_crop.size": arguments.size,
        "transformation_kwargs.crop_size": arguments.size,
        "cached_views": cached_views,
    }
    words = [f"{key}={value}" for key, value in overrides.items()]
    return load_config(None, "configs/scan/scan_imagenet_50.yml", words)


def seconds_per_step(cfg, network, loader) -> float:
    optimizer = build_optimizer(cfg.optimizer, cfg.optimizer_kwargs, network.parameters())
    return seconds(lambda: train_steps(cfg, network, loader, optimizer, CPU)) / len(loader)


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--backbone", default="resnet18")
    options.add_argument("--size", type=int, default=32)
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--classes", type=int, default=10)
    arguments = options.parse_args(argv)
    batch, size = arguments.batch, arguments.size
    cfg = config(arguments, cached_views=0)
    torch.manual_seed(0)
    side = size if size < 96 else 256
    images = torch.randint(256, (batch * STEPS, 3, side, side), dtype=torch.uint8)
    dataset = ResidentDataset(images, None, [])
    transform = train_transform(cfg)
    model = build_model(cfg).to(memory_format=torch.channels_last)
    model.eval().backbone.requires_grad_(False)
    neighbors = torch.randint(len(dataset), (len(dataset), NEIGHBORS + 1))
    new_views = build_loader(dataset, [transform] * 2, batch, train=True, neighbors=neighbors)
    new = seconds_per_step(cfg, model, new_views)

    loader, features = build_loader(dataset, [transform], EVAL_BATCH), []
    view = seconds(lambda: features.append(extract_features(model.backbone, loader))) / len(dataset)
    repeated = ResidentDataset(images[:1].expand(batch * CACHED_STEPS, -1, -1, -1), None, [])
    cached = features[0][torch.arange(len(repeated)) % len(dataset)].expand(VIEWS, -1, -1)  # (V, N, D)
    neighbors = torch.randint(len(repeated), (len(repeated), NEIGHBORS + 1))
    cached_views = FeatureLoader(
        cached.contiguous(), repeated, [transform] * 2, batch, CPU, train=True, neighbors=neighbors
    )
    old = seconds_per_step(config(arguments, VIEWS), model.cluster_head, cached_views)

    columns = ("new views, s a step", "cached views, ms a step", "ratio", "ms to cache a view")
    table = Table("backbone", "px", "batch", "classes", *columns)
    case = arguments.backbone, size, batch, arguments.classes
    table.row(*case, new, 1000 * old, new / old, 1000 * view)
    save(arguments.json, table)


if __name__ == "__main__":
    main()
