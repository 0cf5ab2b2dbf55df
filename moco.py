"""Step 1 on ImageNet: the neighbors that SCAN starts from, mined with MoCo's weights. Nothing is trained."""

import runpy
from pathlib import Path

import torch

runpy.run_path(Path(__file__).resolve().parent / "utils/start.py", run_name=__name__)

from data import open_splits
from data.augment import val_transform
from data.datasets.download import fetch
from data.loader import eval_loader
from models import build_model
from models.foreign import read_pretrained
from models.heads import feature_layer
from models.weights import load_whole
from utils.distributed import first_on_machine
from utils.features import cached_features
from utils.mining import check_before_training, mine
from utils.run import Run, command, stage_config

FILE = "moco_v2_800ep_pretrain.pth.tar"
URL = f"https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v2_800ep/{FILE}"
MD5 = "md5:a04e12f8"  # its first digits, as published


def published_weights() -> Path:
    """MoCo v2 after 800 epochs (arXiv:2003.04297), in PyTorch's folder of downloads; fetched if missing."""
    path = Path(torch.hub.get_dir(), "checkpoints", FILE)
    if not path.is_file():
        fetch(FILE, URL, path, MD5, "name it in moco_weights=...")
    return path


def main(argv: list[str] | None = None) -> None:
    cfg, options = stage_config(argv, "moco", __doc__)
    with Run(cfg, options.restart) as run:
        path = options.model or Path(cfg.get("moco_weights") or first_on_machine(published_weights))
        weights = read_pretrained(path)
        run.folder.start_from_weights(path)
        train_set, val_set = open_splits(cfg)
        check_before_training(len(train_set), len(val_set), cfg.num_neighbors, cfg.knn_backend, cfg.knn_index)
        run.folder.use_images(train_set, val_set)
        if run.is_finished():
            return
        plain = val_transform(cfg.transformation_kwargs)
        images = {"train": train_set, "val": val_set}
        splits = {name: eval_loader(each, plain, run.device) for name, each in images.items()}
        model = build_model(cfg).to(run.device, memory_format=torch.channels_last)
        loaded = load_whole(model, weights, path)
        layer = feature_layer(model, cfg.feature_layer)  # unless told otherwise the backbone, before the MLP
        run.begin(f"{loaded}, SHA-256 {run.folder.inputs['weights']}: nothing is trained")
        run.folder.save_model(model.state_dict())
        features = {}
        for split, loader in splits.items():
            (features[split],) = cached_features(run.path, f"features-{split}", layer, loader)  # (N, D)
        mine(run, features, train_set, val_set)
        run.finish("the model, both neighbor files and neighbors.png")


if __name__ == "__main__":
    command(main)
