"""From a pretext model to the files that SCAN starts from: both neighbor files, and what they are worth."""

import torch

from data.dataset import is_labelled
from utils.evaluate import kmeans_accuracy, neighbor_accuracy
from utils.neighbors import check_minable, choose_backend, mine_neighbors, weighted_knn
from utils.run import Run
from utils.visualize import plot_neighbors

VAL_NEIGHBORS = 5  # mined within the val split: SCAN's validation uses all of them


def check_before_training(cfg, train_set, val_set) -> None:
    """Raise UserError for what would otherwise stop the mining after the last epoch."""
    check_minable(len(train_set), cfg.num_neighbors, cfg.knn_backend, "train")
    check_minable(len(val_set), VAL_NEIGHBORS, cfg.knn_backend, "val")


def knn_accuracy(features, train_set, val_set, device) -> float:
    """Share of labelled val images that a weighted kNN over the training features gets right: a report only.

    features: (N, D) of `train` and `val`, unit length."""
    known = val_set.targets >= 0
    memory, queries = features["train"].to(device), features["val"][known].to(device)
    predictions = weighted_knn(memory, train_set.targets, queries, len(train_set.classes)).cpu()
    return (predictions == val_set.targets[known]).double().mean().item()


def mine(run: Run, features: dict[str, torch.Tensor], train_set, val_set) -> None:
    """Write both neighbor files and neighbors.png; where labels are known, report what the features are worth.

    features: (N, D) of un-augmented images of `train` and `val`, unit length."""
    for split, dataset, topk in (("train", train_set, run.cfg.num_neighbors), ("val", val_set, VAL_NEIGHBORS)):
        vectors = features[split].to(run.device)
        backend = choose_backend(vectors, run.cfg.knn_backend)
        neighbors = mine_neighbors(vectors, topk, backend)  # (N, T + 1)
        run.save_neighbors(split, neighbors)
        run.log.note(f"mined the {topk} nearest neighbors of {len(dataset)} {split} images with {backend}")
        if is_labelled(dataset):
            accuracy = neighbor_accuracy(neighbors, dataset.targets, topk)
            run.log.final(f"neighbors of the {split} split", {f"right among the top {topk}": accuracy})
        if split == "train":
            plot_neighbors(dataset, neighbors.numpy(), run.folder / "neighbors.png")
    if is_labelled(train_set) and is_labelled(val_set):
        clusters = (features["train"], features["val"], val_set.targets, len(train_set.classes), run.cfg.seed)
        baselines = {
            "weighted kNN": knn_accuracy(features, train_set, val_set, run.device),
            "k-means": kmeans_accuracy(*clusters),
        }
        run.log.final("pretext features, accuracy on the val split", baselines)
