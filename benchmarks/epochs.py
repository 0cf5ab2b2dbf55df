"""One epoch of a stage in each form that `stages.py` compares."""

import gc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
from PIL import Image
from torch import nn

import scan
import selflabel
import simclr
from benchmarks.augment import published_ours, published_plain, published_simclr
from benchmarks.timing import seconds
from data.augment import train_transform, val_transform
from data.dataset import ResidentDataset
from data.loader import build_loader
from data.loader.base import Batch
from data.loader.build import EVAL_BATCH_SIZE
from losses import ConfidenceBasedCE, SCANLoss, SimCLRLoss
from models import build_model
from utils.config import load_config
from utils.device import autocast, float32_precision
from utils.features import extract_features
from utils.optimizers import build_optimizer
from utils.run.meter import Meter

STAGES = {
    "simclr": "pretext/simclr",
    "scan": "scan/scan",
    "selflabel": "selflabel/selflabel",
    "features": "scan/scan",
}
LOW_THRESHOLD = 0.05  # every image is more confident than that in one of ten clusters


class Measured(NamedTuple):
    """peak: of the GPU memory, in bytes."""

    seconds_per_image: float
    batch: int
    peak: int


class ConstantBatches:
    """The first batch of a loader again and again, in the given memory format."""

    def __init__(self, loader, layout: torch.memory_format):
        first = next(iter(loader))
        views = [view.contiguous(memory_format=layout) for view in first.views]
        self.first, self.length, self.first_step = Batch(first.index, views, None), len(loader), 0
        self.dataset, self.batch_size = loader.dataset, loader.batch_size

    def set_epoch(self, _: int, first_step: int = 0) -> None:
        self.first_step = first_step

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        return iter([self.first] * (self.length - self.first_step))


class ImageByImage(ConstantBatches):
    """The published loader: Pillow makes each view, in NCHW. views: a function of an image for each view."""

    def __init__(self, loader, views: list[Callable]):
        super().__init__(loader, torch.contiguous_format)
        self.views = views
        images = loader.dataset.images[: self.batch_size]
        self.pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.first_step, self.length):
            views = [torch.stack([view(picture) for picture in self.pictures]) for view in self.views]
            yield Batch(self.first.index, views, None)


def train_steps(cfg, model: nn.Module, loader, optimizer, device: torch.device, first_step: int = 0) -> None:
    """The steps of an epoch from `first_step` on, by the `train_epoch` of the config's stage."""
    if cfg.setup == "simclr":
        stage, task = simclr, simclr.Task(model, loader, SimCLRLoss(0.1), optimizer)
    elif cfg.setup == "scan":
        trained = model.cluster_head if cfg.update_cluster_head_only and not cfg.cached_views else model
        stage, task = scan, scan.Task(model, trained, loader, SCANLoss(5.0), optimizer, model, None)
    else:
        criterion = ConfidenceBasedCE(LOW_THRESHOLD, apply_class_balancing=True)
        stage, task = selflabel, selflabel.Task(model, loader, criterion, optimizer)
    meter = Meter(loader, 0, cfg.log_every, model, step=first_step)
    stage.train_epoch(task, meter, partial(autocast, device, cfg.precision))


def measured(
    stage: str, precision: str, form: str, images: torch.Tensor, batch: int | None, device: torch.device
) -> Measured:
    """One turn of a form: build its epoch, take a step to warm up, then measure.

    images: uint8 (N, 3, H, W); only whole batches are used. batch: None for that of the recipe."""
    cfg = load_config(None, f"configs/{STAGES[stage]}_cifar10.yml", [f"precision={precision}"])
    batch = batch or (EVAL_BATCH_SIZE if stage == "features" else cfg.batch_size)
    images = images[: len(images) // batch * batch]
    on_gpu = device.type == "cuda"
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    epoch = epoch_of(stage, cfg, form, images, batch, device)
    with nullcontext() if form == "published" else float32_precision(precision):
        epoch(len(images) // batch - 1)  # only the last step
        spent = seconds(lambda: epoch(0), device) / len(images)
    return Measured(spent, batch, torch.cuda.max_memory_allocated() if on_gpu else 0)


def epoch_of(
    stage: str, cfg, form: str, images: torch.Tensor, batch: int, device: torch.device
) -> Callable[[int], object]:
    """A form's epoch as a function of the step that it starts at."""
    torch.manual_seed(0)
    layout = torch.contiguous_format if form == "published" else torch.channels_last
    model = build_model(cfg).to(device, memory_format=layout)
    optimizer = build_optimizer(cfg.optimizer, cfg.optimizer_kwargs, model.parameters())
    loader = loader_of(stage, cfg, form, images, batch, device)

    def loader_alone(first_step: int) -> None:
        loader.set_epoch(0, first_step)
        for _ in loader:
            pass

    def features(first_step: int) -> None:
        loader.set_epoch(0, first_step)
        extract_features(model.backbone, loader, partial(autocast, device, cfg.precision))

    def training(first_step: int) -> None:
        train_steps(cfg, model, loader, optimizer, device, first_step)

    if form == "loader alone":
        return loader_alone
    return features if stage == "features" else training


def loader_of(stage: str, cfg, form: str, images: torch.Tensor, batch: int, device: torch.device):
    """The batches of a form's epoch."""
    random = train_transform(cfg)
    plain = val_transform(cfg.transformation_kwargs)
    views = {
        "simclr": [random, random],
        "scan": [random, random],
        "selflabel": [plain, random],
        "features": [plain],
    }[stage]
    loader = build_loader(ResidentDataset(images, None, []), views, batch, device, train=stage != "features")
    if form == "published" and device.type == "cpu":
        random_view = (published_simclr if stage == "simclr" else published_ours)(cfg.augmentation_kwargs)
        plain_view = published_plain(cfg.transformation_kwargs)
        return ImageByImage(loader, [plain_view if view is plain else random_view for view in views])
    if form in ("published", "model alone"):
        layout = torch.contiguous_format if form == "published" else torch.channels_last
        return ConstantBatches(loader, layout)
    return loader
