"""An epoch of each stage against the published form, and against the same model on one constant batch.

    OMP_NUM_THREADS=1 python benchmarks/stages.py [--rounds 3] [--stage simclr] [--images 256] [--batch 128]

CIFAR-10's recipes on 32 px crops of scikit-learn's two photographs, ResNet-18 at full width, weights as drawn. The
published form: fp32, NCHW, views made by Pillow image by image. Ours: the stages' own `train_epoch`, in fp32 and bf16;
`model alone` is the same steps on views made beforehand, so what an epoch takes beyond it is not the model. The forms
take turns in one process; process time, medians over the rounds, and of the ratios the lowest and the highest."""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scan
import selflabel
import simclr
from benchmarks.augment import crops, process_time, published_ours, published_simclr
from data.augment import train_strategy, val_strategy
from data.batches import Batch
from data.dataset import ResidentDataset
from data.loader import build_loader
from losses import ConfidenceBasedCE, SCANLoss, SimCLRLoss
from models import build_model
from utils.config import load_config
from utils.device import choose_device
from utils.optimizers import build_optimizer
from utils.progress import Progress

STAGES = {"simclr": "pretext", "scan": "scan", "selflabel": "selflabel"}
ALWAYS = 0.05  # a confidence that every image has in one of ten clusters


class Epoch:
    """What `train_epoch` asks of a run: the steps of an epoch, and the number format."""

    def __init__(self, cfg, model):
        self.cfg, self.model = cfg, model

    def autocast(self):
        return torch.autocast("cpu", torch.bfloat16, enabled=self.cfg.precision == "bf16")

    def steps(self, loader, epoch: int) -> Progress:
        loader.set_epoch(epoch)
        return Progress(loader, epoch, self.cfg.log_every, self.model.parameters())


class Kept:
    """A loader's first batch, again and again."""

    def __init__(self, loader):
        self.first, self.length, self.batch_size = next(iter(loader)), len(loader), loader.batch_size

    def set_epoch(self, epoch: int) -> None:
        pass

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        return iter([self.first] * self.length)


class ImageByImage(Kept):
    """The published loader: each view made by Pillow, in NCHW. views: what is done to an image for each view."""

    def __init__(self, loader, views: list[Callable]):
        super().__init__(loader)
        self.views = views
        images = loader.dataset.images[: self.batch_size]
        self.pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.length):
            views = [torch.stack([view(picture) for picture in self.pictures]) for view in self.views]
            yield Batch(self.first.index, views, None)


def epoch_of(stage: str, precision: str, images: torch.Tensor, batch: int, form: str) -> Callable[[], object]:
    """A form's epoch, ready to be run."""
    cfg = load_config(None, f"configs/{STAGES[stage]}/{stage}_cifar10.yml", [f"precision={precision}"])
    torch.manual_seed(0)
    layout = torch.contiguous_format if form == "published" else torch.channels_last
    model = build_model(cfg).to(memory_format=layout)
    optimizer = build_optimizer(cfg, model.parameters())
    strong = train_strategy(cfg)
    views = {"simclr": [strong, strong], "scan": [strong, strong], "selflabel": [val_strategy(cfg), strong]}[stage]
    loader = build_loader(ResidentDataset(images, None, []), views, batch, train=True)
    if form == "model alone":
        loader = Kept(loader)
    if form == "published":
        kwargs = cfg.augmentation_kwargs
        random_view = published_simclr(kwargs) if stage == "simclr" else published_ours(kwargs)
        plain = transforms.Compose([transforms.ToTensor(), transforms.Normalize(**cfg.transformation_kwargs.normalize)])
        loader = ImageByImage(loader, [plain if stage == "selflabel" else random_view, random_view])
    run = Epoch(cfg, model)
    if stage == "simclr":
        return lambda: simclr.train_epoch(run, model, loader, SimCLRLoss(0.1), optimizer, 0)
    if stage == "scan":
        return lambda: scan.train_epoch(run, model, loader, SCANLoss(5.0), optimizer, 0)
    return lambda: selflabel.train_epoch(run, model, loader, ConfidenceBasedCE(ALWAYS, True), optimizer, None, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stage", choices=STAGES, help="this stage alone")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=128, help="images in a batch; simclr has two views of each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    choose_device("cpu")  # as the stages do
    images = crops(arguments.images, 32)
    print("| stage, form | times as fast as published | ms an image | not the model |\n| --- | --- | --- | --- |")
    for stage in [arguments.stage] if arguments.stage else STAGES:
        forms = {"published": ("fp32", "published")}
        forms |= {f"ours, {precision}": (precision, "ours") for precision in ("fp32", "bf16")}
        forms |= {f"model alone, {precision}": (precision, "model alone") for precision in ("fp32", "bf16")}
        epochs = {
            name: epoch_of(stage, precision, images, arguments.batch, form) for name, (precision, form) in forms.items()
        }
        times = {name: [] for name in forms}
        for number in range(arguments.rounds + 1):
            for name, epoch in epochs.items():
                spent = 1000 * process_time(epoch) / len(images)
                times[name] += [spent] if number else []  # the first is to warm up
        for name, spent in times.items():
            ratios = [slow / fast for slow, fast in zip(times["published"], spent, strict=True)]
            shown = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            alone = times.get(name.replace("ours", "model alone"), spent)
            rest = statistics.median(1 - model / whole for model, whole in zip(alone, spent, strict=True))
            share = f"{100 * rest:.1f} %" if name.startswith("ours") else ""
            print(f"| {stage}, {name} | {shown} | {statistics.median(spent):.1f} | {share} |")


if __name__ == "__main__":
    main()
