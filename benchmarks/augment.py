"""Batched augmentation against Pillow image by image: microseconds per image, and how many times as fast.

    OMP_NUM_THREADS=1 python benchmarks/augment.py [--rounds 7] [--set simclr] [--size 32] [--device cuda]

The published form: torchvision's transforms for `simclr`, and Pillow's operations for the strong set of
`ours`, one image after the other, ending in a normalised tensor. The images are crops of scikit-learn's two
photographs. The two forms take turns in one process, Pillow always on one thread. Process time, on a GPU wall
time; medians over the rounds, and the ratios with lowest and highest. A GPU gets the batch of one step, then
that of eight steps."""

import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.table import Table, against, parser, ratio, save
from benchmarks.timing import in_turns, prepare, seconds
from data.augment import apply, draw, train_transform
from utils.config import load_config

RECIPES = {  # set and size: a config that has it
    ("simclr", 32): "configs/pretext/simclr_cifar10.yml",
    ("simclr", 96): "configs/pretext/simclr_stl10.yml",
    ("ours", 32): "configs/scan/scan_cifar10.yml",
    ("ours", 96): "configs/scan/scan_stl10.yml",
}
BATCH = {32: 512, 96: 128}
BARS = {("simclr", 32): 7, ("simclr", 96): 2, ("ours", 32): 5, ("ours", 96): 1}


def crops(number: int, size: int) -> torch.Tensor:
    """uint8 (number, 3, size, size), cut from random places of the two photographs."""
    photographs = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]
    places = random.Random(0)
    chosen = []
    for index in range(number):
        photograph = photographs[index % 2]
        top, left = places.randrange(photograph.shape[1] - size), places.randrange(photograph.shape[2] - size)
        chosen.append(photograph[:, top : top + size, left : left + size])
    return torch.stack(chosen)


def published_simclr(kwargs) -> Callable[[Image.Image], torch.Tensor]:
    jitter = transforms.ColorJitter(**kwargs.color_jitter)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(**kwargs.random_resized_crop),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([jitter], p=kwargs.color_jitter_random_apply.p),
            transforms.RandomGrayscale(**kwargs.random_grayscale),
            transforms.ToTensor(),
            transforms.Normalize(**kwargs.normalize),
        ]
    )


def published_plain(kwargs) -> Callable[[Image.Image], torch.Tensor]:
    steps = [
        transforms.CenterCrop(kwargs.crop_size),
        transforms.ToTensor(),
        transforms.Normalize(**kwargs.normalize),
    ]
    return transforms.Compose(steps)


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


OPERATIONS = [  # lowest and highest magnitude, and the operation
    (0, 0, lambda image, _: image),
    (0, 0, lambda image, _: ImageOps.autocontrast(image)),
    (0, 0, lambda image, _: ImageOps.equalize(image)),
    (-30, 30, lambda image, angle: image.rotate(angle)),
    (0, 256, lambda image, threshold: ImageOps.solarize(image, int(threshold))),
    (0.05, 0.95, lambda image, factor: ImageEnhance.Color(image).enhance(factor)),
    (4, 8, lambda image, bits: ImageOps.posterize(image, int(bits))),
    (0.05, 0.95, lambda image, factor: ImageEnhance.Contrast(image).enhance(factor)),
    (0.05, 0.95, lambda image, factor: ImageEnhance.Brightness(image).enhance(factor)),
    (0.05, 0.95, lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor)),
    (-0.1, 0.1, lambda image, shear: _affine(image, 1, shear, 0, 0, 1, 0)),
    (-0.1, 0.1, lambda image, shear: _affine(image, 1, 0, 0, shear, 1, 0)),
    (-0.1, 0.1, lambda image, share: _affine(image, 1, 0, share * image.width, 0, 1, 0)),
    (-0.1, 0.1, lambda image, share: _affine(image, 1, 0, 0, 0, 1, share * image.height)),
]


def published_ours(kwargs) -> Callable[[Image.Image], torch.Tensor]:
    before = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.RandomCrop(kwargs.crop_size)])
    after = transforms.Compose([transforms.ToTensor(), transforms.Normalize(**kwargs.normalize)])

    def augment(image: Image.Image) -> torch.Tensor:
        image = before(image)
        for low, high, operation in random.choices(OPERATIONS, k=kwargs.num_strong_augs):
            image = operation(image, random.uniform(low, high))
        view, size = after(image), kwargs.crop_size
        half = random.randint(1, kwargs.cutout_kwargs.length) // 2
        y, x = random.randrange(size), random.randrange(size)
        view[:, max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
        return view

    return augment


FORMS = {"simclr": published_simclr, "ours": published_ours}


def compare(
    transform: tuple, published: Callable, images: torch.Tensor, rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Microseconds per image of both forms, in turns."""
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    generator = torch.Generator()
    images = images.to(device)

    def pillow() -> float:
        return 1e6 * seconds(lambda: torch.stack([published(picture) for picture in pictures])) / len(images)

    def batched() -> float:
        return (
            1e6
            * seconds(lambda: apply(transform, images, draw(transform, len(images), generator)), device)
            / len(images)
        )

    return in_turns({"Pillow": pillow, "batched": batched}, rounds)


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__, device=True)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--set", choices=sorted(FORMS), help="only this set")
    options.add_argument("--size", type=int, choices=sorted(BATCH), help="only this size")
    arguments = options.parse_args(argv)
    device = prepare(arguments.device)
    table = Table(
        "set, px, batch", "times as fast as Pillow", "bar", "Pillow, us per image", "batched, us per image"
    )
    for (name, size), recipe in RECIPES.items():
        if arguments.set not in (None, name) or arguments.size not in (None, size):
            continue
        cfg = load_config(None, recipe)
        for batch in [BATCH[size]] if device.type == "cpu" else [BATCH[size], 8 * BATCH[size]]:
            transform = train_transform(cfg)
            published = FORMS[name](cfg.augmentation_kwargs)
            times = compare(transform, published, crops(batch, size), arguments.rounds, device)
            pillow, batched = (statistics.median(times[form]) for form in ("Pillow", "batched"))
            found = ratio(times["Pillow"], times["batched"])
            least = BARS[name, size] if device.type == "cpu" else None
            table.row(f"{name}, {size}, {batch}", found, against(least, found.median), pillow, batched)
    save(arguments.json, table)


if __name__ == "__main__":
    main()
