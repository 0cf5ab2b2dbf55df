"""Step 1, the pretext task: SimCLR (arXiv:2002.05709), then the nearest neighbors that SCAN starts from."""

import torch

from data import build_dataset
from data.augment import train_strategy, val_strategy
from data.loader import build_loader
from losses import SimCLRLoss
from models import build_model
from utils.evaluate import kmeans_accuracy, neighbor_accuracy
from utils.features import eval_loader, extract_features
from utils.neighbors import mine_neighbors, save_neighbors, weighted_knn
from utils.optimizers import build_optimizer, set_learning_rate
from utils.progress import Progress
from utils.run import Run, command, save_weights, stage_config
from utils.visualize import plot_curves, plot_neighbors

VAL_NEIGHBORS = 5  # mined within the val split: SCAN's validation uses all of them


def train_epoch(run: Run, model, loader, criterion, optimizer, epoch: int) -> dict[str, float]:
    """One pass over the training images; returns the epoch's averages."""
    model.train()
    loader.set_epoch(epoch)
    progress = Progress(loader, epoch, run.cfg.log_every)
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


def features_of(run: Run, model, dataset) -> torch.Tensor:
    """Un-augmented images through the whole model: (N, 128), unit length."""
    return extract_features(model, eval_loader(dataset, val_strategy(run.cfg), run.device))


def knn_accuracy(memory, train_set, queries, val_set) -> float:
    """Share of labelled val images that a weighted kNN over the training features gets right (a report only)."""
    known = val_set.targets >= 0
    predictions = weighted_knn(memory, train_set.targets, queries[known], len(train_set.classes))
    return (predictions == val_set.targets[known]).double().mean().item()


def mine(run: Run, model, train_set, val_set) -> None:
    """Mine both neighbor files on un-augmented images, and report what they are worth where labels are known."""
    features = {}
    for split, dataset, topk in (("train", train_set, run.cfg.num_neighbors), ("val", val_set, VAL_NEIGHBORS)):
        features[split] = features_of(run, model, dataset)
        neighbors = mine_neighbors(features[split].to(run.device), topk, run.cfg.knn_backend)  # (N, T + 1)
        save_neighbors(neighbors, run.folder / f"topk-{split}-neighbors.npy")
        if dataset.targets is not None:
            accuracy = neighbor_accuracy(neighbors, dataset.targets, topk)
            run.log.final(f"neighbors of the {split} split", {f"right among the top {topk}": accuracy})
        if split == "train":
            plot_neighbors(dataset, neighbors.numpy(), run.folder / "neighbors.png")
    if labelled(train_set, val_set):
        queries, num_classes = features["val"], len(train_set.classes)
        baselines = {
            "weighted kNN": knn_accuracy(features["train"], train_set, queries, val_set),
            "k-means": kmeans_accuracy(features["train"], queries, val_set.targets, num_classes, run.cfg.seed),
        }
        run.log.final("pretext features, accuracy on the val split", baselines)


def labelled(*datasets) -> bool:
    return all(dataset.targets is not None for dataset in datasets)


def main(argv: list[str] | None = None) -> None:
    cfg = stage_config(argv, "simclr", __doc__)
    train_set, val_set = build_dataset(cfg, "train"), build_dataset(cfg, "val")
    strategy = train_strategy(cfg)
    run = Run(cfg)
    loader = build_loader(train_set, [strategy, strategy], cfg.batch_size, run.device, train=True, seed=cfg.seed)
    model = build_model(cfg).to(run.device, memory_format=torch.channels_last)
    criterion = SimCLRLoss(**cfg.criterion_kwargs)
    optimizer = build_optimizer(cfg, model.parameters())
    run.resume(model, optimizer)

    for epoch in run.epochs():
        set_learning_rate(optimizer, cfg, epoch)
        metrics = train_epoch(run, model, loader, criterion, optimizer, epoch)
        if run.is_due(epoch, cfg.knn_every) and labelled(train_set, val_set):
            memory, queries = (features_of(run, model, dataset) for dataset in (train_set, val_set))
            metrics["val/knn_accuracy"] = knn_accuracy(memory, train_set, queries, val_set)
        run.log_epoch(epoch, metrics)
        run.save(epoch, model, optimizer)

    save_weights(model.state_dict(), run.folder / "model.pth.tar")
    mine(run, model, train_set, val_set)
    plot_curves(run.folder / "log.jsonl", run.folder / "curves.png")
    run.log.note(f"done: {run.folder} holds the model, both neighbor files, neighbors.png and curves.png")


if __name__ == "__main__":
    command(main)
