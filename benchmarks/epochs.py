"""One epoch of a stage in each form that `stages.py` compares."""

import gc
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from PIL import Image

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
from utils.features import extract_features
from utils.optimizers import build_optimizer
from utils.run.meter import Progress

STAGES = {
    "simclr": "pretext/simclr",
    "scan": "scan/scan",
    "selflabel": "selflabel/selflabel",
    "features": "scan/scan",
}
ALWAYS = 0.05  # a confidence that every image has in one of ten clusters


class Measured(NamedTuple):
    """peak: of the GPU memory, in bytes."""

    seconds_an_image: float
    batch: int
    peak: int


class Epoch:
    """What `train_epoch` asks of a run: the steps of an epoch, from `first_step` on, and the number format."""

    def __init__(self, cfg, model, device: torch.device):
        self.cfg, self.model, self.device, self.first_step = cfg, model, device, 0

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.precision == "bf16")

    def steps(self, loader, epoch: int) -> Progress:
        loader.set_epoch(epoch, self.first_step)
        return Progress(loader, epoch, self.cfg.log_every, self.model.parameters())


class Kept:
    """A loader's first batch, again and again, its views in NCHW if so wished."""

    def __init__(self, loader, layout: torch.memory_format):
        self.first, self.length, self.batch_size = next(iter(loader)), len(loader), loader.batch_size
        views = [view.contiguous(memory_format=layout) for view in self.first.views]
        self.first = Batch(self.first.index, views, None)
        self.dataset, self.first_step = loader.dataset, 0

    def set_epoch(self, _: int, first_step: int = 0) -> None:
        self.first_step = first_step

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        return iter([self.first] * (self.length - self.first_step))


class ImageByImage(Kept):
    """The published loader: each view made by Pillow, in NCHW. views: what is done to an image for each view."""

    def __init__(self, loader, views: list[Callable]):
        super().__init__(loader, torch.contiguous_format)
        self.views = views
        images = loader.dataset.images[: self.batch_size]
        self.pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.first_step, self.length):
            views = [torch.stack([view(picture) for picture in self.pictures]) for view in self.views]
            yield Batch(self.first.index, views, None)


def measured(
    stage: str, precision: str, form: str, images: torch.Tensor, batch: int | None, device: torch.device
) -> Measured:
    """A form's turn: its epoch is built, takes a step to warm up, and is measured.

    images: uint8 (N, 3, H, W), of which whole batches are taken. batch: None for that of the recipe."""
    cfg = load_config(None, f"configs/{STAGES[stage]}_cifar10.yml", [f"precision={precision}"])
    batch = batch or (EVAL_BATCH_SIZE if stage == "features" else cfg.batch_size)
    images = images[: len(images) // batch * batch]
    on_gpu = device.type == "cuda"
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    epoch = epoch_of(stage, cfg, form, images, batch, device)
    epoch(len(images) // batch - 1)  # the last step alone
    spent = seconds(lambda: epoch(0), device) / len(images)
    return Measured(spent, batch, torch.cuda.max_memory_allocated() if on_gpu else 0)


def epoch_of(
    stage: str, cfg, form: str, images: torch.Tensor, batch: int, device: torch.device
) -> Callable[[int], object]:
    """A form's epoch, to be run from a given step on."""
    torch.manual_seed(0)
    layout = torch.contiguous_format if form == "published" else torch.channels_last
    model = build_model(cfg).to(device, memory_format=layout)
    loader = loader_of(stage, cfg, form, images, batch, device)
    run = Epoch(cfg, model, device)

    def batches_alone(first_step: int) -> None:
        loader.set_epoch(0, first_step)
        for _ in loader:
            pass

    def features(first_step: int) -> None:
        loader.set_epoch(0, first_step)
        with run.autocast():
            extract_features(model.backbone, loader)

    if form == "loader alone":
        return batches_alone
    if stage == "features":
        return features
    optimizer = build_optimizer(cfg.optimizer, cfg.optimizer_kwargs, model.parameters())
    train_epoch, others = {
        "simclr": (simclr.train_epoch, (SimCLRLoss(0.1), optimizer)),
        "scan": (scan.train_epoch, (SCANLoss(5.0), optimizer)),
        "selflabel": (selflabel.train_epoch, (ConfidenceBasedCE(ALWAYS, True), optimizer, None)),
    }[stage]

    def training(first_step: int) -> None:
        run.first_step = first_step
        train_epoch(run, model, loader, *others, 0)

    return training


def loader_of(stage: str, cfg, form: str, images: torch.Tensor, batch: int, device: torch.device):
    """The batches of a form's epoch."""
    strong, plain = (
        train_transform(cfg.augmentation_strategy, cfg.augmentation_kwargs),
        val_transform(cfg.transformation_kwargs),
    )
    views = {
        "simclr": [strong, strong],
        "scan": [strong, strong],
        "selflabel": [plain, strong],
        "features": [plain],
    }
    dataset = ResidentDataset(images, None, [])
    loader = build_loader(dataset, views[stage], batch, device, train=stage != "features")
    if form == "published" and device.type == "cpu":
        random_view = (published_simclr if stage == "simclr" else published_ours)(cfg.augmentation_kwargs)
        plain_view = published_plain(cfg.transformation_kwargs)
        return ImageByImage(loader, [plain_view if view is plain else random_view for view in views[stage]])
    if form in ("published", "model alone"):
        return Kept(loader, torch.contiguous_format if form == "published" else torch.channels_last)
    return loader
