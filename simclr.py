"""Step 1, the pretext task: SimCLR (arXiv:2002.05709), then the nearest neighbors that SCAN starts from."""

import runpy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn, optim

runpy.run_path(Path(__file__).resolve().parent / "utils/start.py", run_name=__name__)

from data import open_splits, with_unlabeled
from data.augment import train_transform, val_transform
from data.loader import build_loader, eval_loader
from losses import SimCLRLoss
from models import build_model, use_plain_view
from models.heads import feature_layer
from models.weights import load_whole, read_weights
from utils.distributed import gather, sum_gradients
from utils.features import extract_features
from utils.mining import check_before_training, comparable_targets, knn_accuracy, mine
from utils.neighbors.search import check_features
from utils.optimizers import build_optimizer, set_learning_rate
from utils.report.figures import draw_curves
from utils.run import Meter, Run, command, stage_config


class Task(NamedTuple):
    """What is trained, and on what."""

    model: nn.Module
    loader: Any
    criterion: SimCLRLoss
    optimizer: optim.Optimizer


def train_epoch(task: Task, meter: Meter, autocast) -> dict[str, float]:
    """One pass over the training images; returns the epoch's averages."""
    task.model.train()
    for batch in meter:
        images = torch.cat(batch.views)  # (2B, 3, H, W): both views in one pass share the batch norm
        with autocast():
            features = task.model(images)  # (2B, D), unit length
        loss = task.criterion(gather(torch.stack(features.chunk(2), dim=1)))  # of (B, 2, D)
        task.optimizer.zero_grad()
        loss.backward()
        sum_gradients(task.model.parameters())
        task.optimizer.step()
        meter.update(loss=loss)
    return meter.averages()


def train(run: Run, model: nn.Module, train_set, val_set, splits: dict) -> None:
    """SimCLR on the train split and what there is unlabeled; the kNN accuracy is for information only."""
    cfg, dataset = run.cfg, with_unlabeled(run.cfg, train_set)
    views = [train_transform(cfg)] * 2
    loader = build_loader(dataset, views, cfg.batch_size, run.device, train=True, seed=cfg.seed)
    optimizer = build_optimizer(cfg.optimizer, cfg.optimizer_kwargs, model.parameters())
    task = Task(model, loader, SimCLRLoss(**cfg.criterion_kwargs), optimizer)
    run.restore(model, optimizer)
    for epoch in run.epochs():
        set_learning_rate(optimizer, cfg, epoch)
        metrics = train_epoch(task, run.meter(loader, epoch), run.autocast)
        is_due = (epoch + 1) % cfg.knn_every == 0 or epoch + 1 == cfg.epochs
        if is_due and comparable_targets(train_set, val_set) is not None:
            features = {name: extract_features(model, each, run.autocast) for name, each in splits.items()}
            metrics["val/knn_accuracy"] = knn_accuracy(features, train_set, val_set, run.device)
        run.end_epoch(epoch, metrics)


def main(argv: list[str] | None = None) -> None:
    cfg, options = stage_config(argv, "simclr", __doc__)
    use_plain_view(cfg)
    with Run(cfg, options.restart) as run:
        if options.model:
            weights = read_weights(options.model, "pretext")
            run.folder.start_from_weights(options.model, weights.state)
        train_set, val_set = open_splits(cfg)
        check_before_training(len(train_set), len(val_set), cfg.num_neighbors, cfg.knn_backend, cfg.knn_index)
        run.folder.use_images(train_set, val_set)
        if not options.model and run.is_finished():
            return
        plain = val_transform(cfg.transformation_kwargs)
        images = {"train": train_set, "val": val_set}
        splits = {name: eval_loader(each, plain, run.device) for name, each in images.items()}
        model = build_model(cfg).to(run.device, memory_format=torch.channels_last)
        if options.model:
            loaded = load_whole(model, weights, options.model)
        else:
            train(run, model, train_set, val_set, splits)

        layer = feature_layer(model, cfg.feature_layer)  # unless told otherwise the head, after the MLP
        features = {split: extract_features(layer, loader) for split, loader in splits.items()}  # (N, D) each
        for vectors in features.values():
            check_features(vectors)  # a model that cannot be mined replaces no other
        if options.model:
            run.begin(f"{loaded}: nothing is trained")
        run.folder.save_model(model.state_dict())
        written = mine(run, features, train_set, val_set)
        draw_curves(run.path)
        run.finish(f"the model, {written}")


if __name__ == "__main__":
    command(main)
