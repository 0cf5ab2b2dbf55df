"""Step 1, the pretext task: SimCLR (arXiv:2002.05709), then the nearest neighbors that SCAN starts from."""

from functools import partial

import torch

from data import open_splits, with_unlabeled
from data.augment import train_transform, val_transform
from data.loader import build_loader, eval_loader
from losses import SimCLRLoss
from models import build_model
from models.heads import feature_layer
from models.weights import load_whole, read_weights
from utils.features import extract_features
from utils.mining import check_before_training, knn_accuracy, mine
from utils.neighbors.search import check_features
from utils.optimizers import build_optimizer, set_learning_rate
from utils.report.figures import plot_curves
from utils.run.command_line import command, stage_arguments, stage_config
from utils.run.run import Run


def train_epoch(run: Run, model, loader, criterion, optimizer, epoch: int) -> dict[str, float]:
    """One pass over the training images; returns the epoch's averages."""
    model.train()
    progress = run.steps(loader, epoch)
    for batch in progress:
        images = torch.cat(batch.views)  # (2B, 3, H, W): both views in one pass share the batch norm
        with run.autocast():
            features = model(images)  # (2B, D), unit length
        loss = criterion(torch.stack(features.chunk(2), dim=1))  # of (B, 2, D)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress.update(loss=loss)
    return progress.averages()


def train(run: Run, model, train_set, val_set, splits: dict) -> None:
    """SimCLR on the train split and what there is of unlabeled images; kNN accuracy is for information alone."""
    cfg, strategy = run.cfg, train_transform(run.cfg.augmentation_strategy, run.cfg.augmentation_kwargs)
    dataset = with_unlabeled(cfg, train_set)
    loader = build_loader(
        dataset, [strategy, strategy], cfg.batch_size, run.device, train=True, seed=cfg.seed
    )
    criterion = SimCLRLoss(**cfg.criterion_kwargs)
    optimizer = build_optimizer(cfg.optimizer, cfg.optimizer_kwargs, model.parameters())
    run.resume(model, optimizer)
    for epoch in run.epochs():
        set_learning_rate(optimizer, cfg, epoch)
        metrics = train_epoch(run, model, loader, criterion, optimizer, epoch)
        run.check_finite(epoch)
        if run.is_due(epoch, cfg.knn_every) and train_set.is_labelled and val_set.is_labelled:
            features = {split: extract_features(model, each, run.autocast) for split, each in splits.items()}
            metrics["val/knn_accuracy"] = knn_accuracy(features, train_set, val_set, run.device)
        run.log_epoch(epoch, metrics)
        run.save(epoch)


def main(argv: list[str] | None = None) -> None:
    arguments = stage_arguments(argv, __doc__, takes_model=True)
    cfg = stage_config(arguments, "simclr")
    trained = read_weights(arguments.model, "pretext") if arguments.model else None
    run = Run(cfg, arguments.restart)
    if not trained and run.is_finished(partial(open_splits, cfg)):
        return
    train_set, val_set = open_splits(cfg)
    check_before_training(len(train_set), len(val_set), cfg.num_neighbors, cfg.knn_backend, cfg.knn_index)
    run.uses(train_set, val_set)
    plain = val_transform(cfg.transformation_kwargs)
    splits = {
        "train": eval_loader(train_set, plain, run.device),
        "val": eval_loader(val_set, plain, run.device),
    }
    model = build_model(cfg).to(run.device, memory_format=torch.channels_last)
    if trained:
        run.take_over(arguments.model, load_whole(model, trained, arguments.model))
    else:
        train(run, model, train_set, val_set, splits)

    layer = feature_layer(model, cfg.feature_layer)  # unless told otherwise the head, after the MLP
    features = {split: extract_features(layer, loader) for split, loader in splits.items()}
    for vectors in features.values():
        check_features(vectors)  # a model that cannot be mined replaces no other
    run.save_model(model.state_dict())
    mine(run, features, train_set, val_set)
    plot_curves(run.folder / "log.jsonl", run.folder / "curves.png")
    run.finish("the model, both neighbor files and neighbors.png")


if __name__ == "__main__":
    command(main)
