"""From a pretext model to the files that SCAN starts from: both neighbor files, and what they are worth."""

import torch

from utils.evaluate.clustering import kmeans_accuracy, neighbor_accuracy
from utils.neighbors.search import (
    VAL_NEIGHBORS,
    check_minable,
    choose_backend,
    mine_neighbors,
    neighbors_to_bytes,
    recall,
    weighted_knn,
)
from utils.report.figures import plot_neighbors

RECALL_SAMPLE = 1000  # images that are searched exactly, to judge an index
KMEANS_LIMIT = 1e10  # images x feature size x classes: above it a baseline would take longer than it is worth


def check_before_training(cfg, train_set, val_set) -> None:
    """Raise UserError for what would otherwise stop the mining after the last epoch."""
    size = feature_size(cfg)
    check_minable(len(train_set), cfg.num_neighbors, cfg.knn_backend, "train", cfg.knn_index, size)
    check_minable(len(val_set), VAL_NEIGHBORS, cfg.knn_backend, "val")


def feature_size(cfg) -> int:
    """D, the size of the features that are mined."""
    if cfg.feature_layer == "head":
        return cfg.model_kwargs.features_dim
    return 2048 if cfg.backbone == "resnet50" else 8 * cfg.model_kwargs.width


def knn_accuracy(features, train_set, val_set, device) -> float:
    """Share of labelled val images that a weighted kNN over the training features gets right: a report only.

    features: (N, D) of `train` and `val`, unit length."""
    known = val_set.targets >= 0
    memory, queries = features["train"].to(device), features["val"][known].to(device)
    predictions = weighted_knn(memory, train_set.targets, queries, len(train_set.classes)).cpu()
    return (predictions == val_set.targets[known]).double().mean().item()


def mine(run, features: dict[str, torch.Tensor], train_set, val_set) -> None:
    """Write both neighbor files and neighbors.png; where labels are known, report what the features are worth.

    features: (N, D) of un-augmented images of `train` and `val`, unit length. `knn_index` is for the train split; the
    val split is small and always searched exactly."""
    cfg = run.cfg
    for split, dataset, topk, index in (
        ("train", train_set, cfg.num_neighbors, cfg.knn_index),
        ("val", val_set, VAL_NEIGHBORS, "Flat"),
    ):
        vectors = features[split].to(run.device)
        backend = choose_backend(vectors, cfg.knn_backend, index)
        neighbors = mine_neighbors(vectors, topk, backend, index)  # (N, T + 1)
        run.folder.save_neighbors(split, neighbors_to_bytes(neighbors), topk)
        run.log.note(f"mined the {topk} nearest neighbors of {len(dataset)} {split} images with {backend}")
        if index != "Flat":
            share, sample = recall(neighbors, vectors, RECALL_SAMPLE), min(RECALL_SAMPLE, len(dataset))
            found = f"{100 * share:.1f} % of the exact {topk} nearest neighbors of {sample:,} images"
            run.log.note(f"knn_index {index} found {found}")
        if dataset.is_labelled:
            accuracy = neighbor_accuracy(neighbors, dataset.targets, topk)
            run.log.final(f"neighbors of the {split} split", {f"right among the top {topk}": accuracy})
        if split == "train":
            plot_neighbors(dataset, neighbors.numpy(), run.path / "neighbors.png")
    if train_set.is_labelled and val_set.is_labelled:
        baselines = {"weighted kNN": knn_accuracy(features, train_set, val_set, run.device)}
        images, size, classes = *features["train"].shape, len(train_set.classes)
        if images < classes or images * size * classes > KMEANS_LIMIT:
            run.log.note(
                "k-means left out, which is for information alone: it needs an image for each class, and long for "
                f"many ({images:,} features of size {size}, {classes} classes)"
            )
        else:
            clusters = (features["train"], features["val"], val_set.targets, classes, cfg.seed)
            baselines["k-means"] = kmeans_accuracy(*clusters)
        run.log.final("pretext features, accuracy on the val split", baselines)
