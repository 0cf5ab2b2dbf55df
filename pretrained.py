"""Step 1 with a backbone that is trained already: the neighbors that SCAN starts from. Nothing is trained."""

import runpy
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

runpy.run_path(Path(__file__).resolve().parent / "utils/start.py", run_name=__name__)

from data import open_splits
from data.augment import val_transform
from data.loader import eval_loader
from models import build_model, use_plain_view
from models.foreign import read_backbone
from models.heads import feature_layer
from models.weights import load_whole
from utils.errors import UserError
from utils.features import cached_features
from utils.mining import check_before_training, mine
from utils.run import Run, command, stage_config


def mine_with(cfg, options, default: Callable[[], Path | str]) -> None:
    """Load the weights of `--model` or of the key `weights`, else of `default()`, and mine both splits."""
    with Run(cfg, options.restart) as run:
        model = build_model(cfg)
        if cfg.backbone == "features":
            loaded = f"{cfg.folder.features}: features of size {model.backbone.features_dim}"
        else:
            source = options.model or cfg.get("weights") or default()
            weights = read_backbone(cfg, model, source)
            run.folder.start_from_weights(source, weights.state)
            loaded = f"{load_whole(model, weights, source)}, SHA-256 {run.folder.inputs['weights']}"
        train_set, val_set = open_splits(cfg)
        check_before_training(len(train_set), len(val_set), cfg.num_neighbors, cfg.knn_backend, cfg.knn_index)
        run.folder.use_images(train_set, val_set)
        if run.is_finished():
            return
        state = model.state_dict()  # on the CPU: the same file, whatever the device
        model = model.to(run.device, memory_format=torch.channels_last)
        plain = val_transform(cfg.transformation_kwargs)
        layer = feature_layer(model, cfg.feature_layer)
        network = layer if layer is model else layer.backbone  # unless told otherwise, before the MLP
        splits = {"train": train_set, "val": val_set}
        loaders = {split: eval_loader(images, plain, run.device) for split, images in splits.items()}
        run.begin(f"{loaded}: nothing is trained")
        run.folder.save_model(state)
        features = {}
        for split, loader in loaders.items():
            (vectors,) = cached_features(run.path, f"features-{split}", network, loader)  # (N, D)
            features[split] = F.normalize(vectors, dim=1)
        written = mine(run, features, train_set, val_set)
        run.finish(f"the model, {written}")


def no_weights():
    raise UserError("weights is missing: give weights=FILE, or weights=hub to download them")


def main(argv: list[str] | None = None) -> None:
    cfg, options = stage_config(argv, "pretrained", __doc__)
    use_plain_view(cfg)
    mine_with(cfg, options, no_weights)


if __name__ == "__main__":
    command(main)
