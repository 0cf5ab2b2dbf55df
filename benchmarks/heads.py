"""Heads on ready features: their start by k-means, a step, an epoch, validation; and the memory of each.

    OMP_NUM_THREADS=1 python benchmarks/heads.py [--clusters 1000 --dim 768 --heads 16 --images 100000]

The features are those of `knn.py`, the neighbors random, the labels of the val images too. First table: one
k-means, of which each linear head gets its own (the start of all takes `--heads` times as long), by
`start_from_kmeans`. Second table: `train_epoch` or `train_epoch_temi` after `heads_only`, with random heads,
and `validate` as after each epoch: all heads with SCAN, one with TEMI. With --steps an epoch is that many
steps and is projected. Process time, on a GPU wall time. Each row is a process of its own; its
peak memory holds the imports (0.8 GB on a CPU), the features and their copies."""

import importlib
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scan
from benchmarks.knn import write_features
from benchmarks.table import Table, parser, save
from benchmarks.timing import alone, peak_memory, prepare, seconds
from data.augment import val_transform
from data.dataset import FeatureDataset
from data.loader import eval_loader
from models import build_model, use_plain_view
from models.head_choice import ValSplit
from models.head_start import start_from_kmeans
from models.heads import ClusterHeads
from utils.config import load_config
from utils.device import autocast
from utils.evaluate.clustering import MODULES
from utils.run.meter import Meter

CASES = [("scan", "linear"), ("temi", "linear"), ("temi", "mlp")]  # criterion, form of the heads
NEIGHBORS, VAL_NEIGHBORS = 50, 5
EPOCH = 1  # after that in which TEMI keeps the directions of MLP heads


def read_features(path: Path) -> FeatureDataset:
    return FeatureDataset(torch.from_numpy(np.load(path)), None, [])


def config(arguments, folder: Path, criterion: str, form: str):
    words = ["backbone=features", f"folder.features={folder / 'train.npy'}", f"root_dir={folder}"]
    words += ["update_cluster_head_only=True", "augmentation_strategy=plain", "head_start=random"]
    words += [f"num_classes={arguments.clusters}", f"num_heads={arguments.heads}"]
    words += [f"batch_size={arguments.batch}", f"head_form={form}", f"criterion={criterion}"]
    if criterion == "temi":
        words += ["criterion_kwargs.beta=0.6", "criterion_kwargs.teacher_momentum=0.996"]
    cfg = load_config(None, "configs/scan/scan_folder.yml", words)
    use_plain_view(cfg)
    return cfg


def begin(device: str) -> torch.device:
    for module in ("sklearn.cluster", *MODULES):
        importlib.import_module(module)
    return prepare(device)


def measure_start(arguments, folder: Path) -> tuple:
    """A row of the first table."""
    begin(arguments.device)
    features = read_features(folder / "train.npy").images
    heads = ClusterHeads(features.shape[1], arguments.clusters, 1)
    return seconds(lambda: start_from_kmeans(heads, features, 0)), peak_memory()


def measure_training(arguments, folder: Path, criterion: str, form: str) -> tuple:
    """A row of the second table."""
    device = begin(arguments.device)
    torch.manual_seed(0)
    cfg = config(arguments, folder, criterion, form)
    train_set, val_set = (read_features(folder / f"{split}.npy") for split in ("train", "val"))
    model = build_model(cfg).to(device)
    neighbors = torch.randint(len(train_set), (len(train_set), NEIGHBORS))
    task = scan.heads_only(cfg, model, train_set, neighbors, device)
    train = scan.train_epoch_temi if task.teacher else scan.train_epoch
    steps = min(arguments.steps or len(task.loader), len(task.loader))

    def epoch(steps: int) -> None:
        meter = Meter(task.loader, EPOCH, cfg.log_every, task.trained, step=len(task.loader) - steps)
        train(task, meter, partial(autocast, device, arguments.precision))

    epoch(1)  # to warm up
    step = seconds(lambda: epoch(steps), device) / steps

    targets = torch.randint(arguments.clusters, (len(val_set),))
    val_set = FeatureDataset(val_set.images, targets, [])
    loader = eval_loader(val_set, val_transform(cfg.transformation_kwargs), device)
    neighbors = torch.randint(len(val_set), (len(val_set), VAL_NEIGHBORS + 1))
    val = ValSplit(val_set, loader, neighbors, val_set.images)
    heads = [0] if task.teacher else list(range(arguments.heads))
    validated = seconds(lambda: val.validate(cfg, model, heads, val_set.images), device)
    return 1000 * step, step * len(task.loader), validated, peak_memory()


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__, device=True)
    options.add_argument("--clusters", type=int, default=1000)
    options.add_argument("--dim", type=int, default=768)
    options.add_argument("--heads", type=int, default=16)
    options.add_argument("--images", type=int, default=100_000)
    options.add_argument("--val-images", type=int, default=10_000)
    options.add_argument("--batch", type=int, default=1024)
    options.add_argument("--steps", type=int, help="of an epoch that are taken, instead of all")
    options.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options.add_argument("--only", choices=("start", "training"), help="one of the two tables")
    arguments = options.parse_args(argv)
    torch.set_num_threads(1)
    tables = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, images in (("train", arguments.images), ("val", arguments.val_images)):
            alone(write_features, folder / f"{split}.npy", images, arguments.dim)
        if arguments.only != "training":
            tables.append(Table("k-means, s a head", "peak memory, GB"))
            tables[-1].row(*alone(measure_start, arguments, folder))
            print()
        if arguments.only != "start":
            columns = ("ms a step", "s an epoch", "validation, s", "peak memory, GB")
            tables.append(Table("criterion", "heads", *columns))
            for case in CASES:
                tables[-1].row(*case, *alone(measure_training, arguments, folder, *case))
    save(arguments.json, *tables)


if __name__ == "__main__":
    main()
