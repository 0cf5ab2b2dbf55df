"""Step 1 on ImageNet: the neighbors that SCAN starts from, mined with MoCo's weights. Nothing is trained."""

import runpy
from pathlib import Path

import torch

runpy.run_path(Path(__file__).resolve().parent / "utils/start.py", run_name=__name__)

from data.datasets.download import fetch
from models import use_plain_view
from pretrained import mine_with
from utils.distributed import first_on_machine
from utils.run import command, stage_config

FILE = "moco_v2_800ep_pretrain.pth.tar"
URL = f"https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v2_800ep/{FILE}"
MD5 = "md5:a04e12f8"  # its first digits, as published


def published_weights() -> Path:
    """MoCo v2 after 800 epochs (arXiv:2003.04297), in PyTorch's folder of downloads; fetched if missing."""
    path = Path(torch.hub.get_dir(), "checkpoints", FILE)
    if not path.is_file():
        fetch(FILE, URL, path, MD5, "name it in weights=...")
    return path


def main(argv: list[str] | None = None) -> None:
    cfg, options = stage_config(argv, "moco", __doc__)
    use_plain_view(cfg)
    mine_with(cfg, options, lambda: first_on_machine(published_weights))


if __name__ == "__main__":
    command(main)
