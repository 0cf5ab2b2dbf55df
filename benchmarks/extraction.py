"""Feature extraction: images per second by backbone, in fp32 and under bf16 autocast.

    OMP_NUM_THREADS=1 python benchmarks/extraction.py [--rounds 3] [--backbones resnet18@32 --images 64]
    python benchmarks/extraction.py --device cuda --images 5000

`extract_features` with the plain view, on made-up uint8 images in memory, by untrained backbones
(`backbone@px`). The images have the side of the view up to 128 px, else 256 px. A batch holds 512 images, or
all if there are fewer, as for the large networks. The two forms take turns. Process time, on a GPU wall time;
medians over the rounds, with lowest and highest.

Neighbors are mined on features in fp32: the script fails if those that `cached_features` writes inside an
autocast block are not the ones of fp32, to the bit."""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.table import Table, parser, ratio, save, spread
from benchmarks.timing import in_turns, prepare, seconds
from data.augment import val_transform
from data.dataset import ResidentDataset
from data.loader import eval_loader
from models import build_model, use_plain_view
from utils.config import load_config
from utils.device import autocast
from utils.features import cached_features, extract_features

CASES = {  # backbone@px: images
    "resnet18@32": 512,
    "resnet18@96": 256,
    "resnet50@224": 64,
    "torchvision:mobilenet_v2@64": 512,
    "torchvision:mobilenet_v2@224": 128,
    "timm:vit_small_patch14_dinov2.lvd142m@224": 64,
    "timm:vit_base_patch14_dinov2.lvd142m@224": 32,
    "timm:vit_base_patch16_clip_224.openai@224": 32,
}
IMAGES = 32  # of other cases


def backbone_at(text: str) -> tuple[str, int]:
    backbone, _, size = text.rpartition("@")
    if not (backbone and size.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text} is not backbone@px")
    return backbone, int(size)


def compare(backbone: str, size: int, images: int, rounds: int, device: torch.device, table: Table) -> None:
    """Add a row: a backbone at a size in both forms."""
    words = [f"backbone={backbone}", f"transformation_kwargs.crop_size={size}"]
    cfg = load_config(None, "configs/scan/scan_folder.yml", words)
    use_plain_view(cfg)
    torch.manual_seed(0)
    network = build_model(cfg).backbone.to(device, memory_format=torch.channels_last)
    side = size if size <= 128 else 256
    dataset = ResidentDataset(torch.randint(256, (images, 3, side, side), dtype=torch.uint8), None, [])
    loader = eval_loader(dataset, val_transform(cfg.transformation_kwargs), device)
    found = {}

    def extract(precision: str) -> float:
        monitoring = partial(autocast, device, precision)
        return seconds(
            lambda: found.update({precision: extract_features(network, loader, monitoring)}), device
        )

    times = in_turns({each: partial(extract, each) for each in ("fp32", "bf16")}, rounds)
    with tempfile.TemporaryDirectory() as folder, autocast(device, "bf16"):
        (mined_on,) = cached_features(folder, "features", network, loader)
    assert torch.equal(mined_on, found["fp32"]), f"{backbone}: autocast reaches the features for mining"
    fp32, bf16 = (spread([images / each for each in times[precision]]) for precision in ("fp32", "bf16"))
    table.row(backbone, size, images, fp32, bf16, ratio(times["fp32"], times["bf16"]))


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__, device=True)
    options.add_argument("--rounds", type=int, default=3)
    cases = list(map(backbone_at, CASES))
    options.add_argument(
        "--backbones", nargs="+", type=backbone_at, default=cases, metavar="BACKBONE@PX", help="only these"
    )
    options.add_argument("--images", type=int, help="images in a pass, of every backbone")
    arguments = options.parse_args(argv)
    device = prepare(arguments.device)
    columns = ("fp32, images/s", "bf16, images/s", "bf16, times as fast")
    table = Table("backbone", "px", "images", *columns)
    for backbone, size in arguments.backbones:
        images = arguments.images or CASES.get(f"{backbone}@{size}", IMAGES)
        compare(backbone, size, images, arguments.rounds, device, table)
    save(arguments.json, table)


if __name__ == "__main__":
    main()
