"""From features of a pretext model to the two neighbor files that SCAN starts from, and how good they are."""

import torch
from torch import Tensor

from utils.arrays import share
from utils.device import near
from utils.distributed import from_main
from utils.errors import UserError
from utils.evaluate.clustering import neighbor_accuracy
from utils.evaluate.kmeans import kmeans_accuracy
from utils.neighbors import search
from utils.neighbors.search import VAL_NEIGHBORS, mine_neighbors
from utils.report.figures import plot_neighbors
from utils.storage.arrays import to_npy

RECALL_SAMPLE = 1000  # images that are searched exactly, to measure an approximate index


def check_before_training(num_train: int, num_val: int, num_neighbors: int, backend: str, index: str) -> None:
    """Raise UserError for what would otherwise stop the mining after the last epoch."""
    search.check_minable(num_train, num_neighbors, backend, "train", index)
    search.check_minable(num_val, VAL_NEIGHBORS, backend, "val")


def comparable_targets(train_set, val_set) -> Tensor | None:
    """The val targets, (M,), in the numbers of the train split's classes: classes are compared by name.

    None if a split has no labels, or a labelled val image is of no class of the train split's."""
    if not (train_set.is_labelled and val_set.is_labelled):
        return None
    if train_set.classes == val_set.classes:
        return val_set.targets
    numbers = {name: number for number, name in enumerate(train_set.classes)}
    number_of = torch.tensor([numbers.get(name, -1) for name in val_set.classes] + [-1])  # the last for -1
    targets = number_of[val_set.targets]
    has_all = torch.equal(targets >= 0, val_set.targets >= 0)
    is_unique = len(numbers) == len(train_set.classes)  # two classes of ImageNet have one name
    return targets if has_all and is_unique else None


def knn_accuracy(features: dict[str, Tensor], train_set, val_set, device) -> float:
    """Accuracy on labelled val images of a weighted kNN over the train features, (N, D) of unit length.

    The splits have `comparable_targets`."""
    targets = comparable_targets(train_set, val_set)
    labelled = targets >= 0
    memory, queries, classes = near(features["train"], device), features["val"][labelled], train_set.classes
    predictions = search.weighted_knn(memory, train_set.targets, queries, len(classes), device=device)
    return share(predictions == targets[labelled])


def mine(run, features: dict[str, Tensor], train_set, val_set) -> str:
    """Write both neighbor files and neighbors.png; where labels are known, report how good the features are.
    neighbors.png is left out where images of ready features cannot be shown. Returns what is written.

    features: (N, D) of un-augmented images of `train` and `val`, unit length. The val split is always
    searched exactly. run: its `cfg`, `device`, `folder`, `log` and `path` are used."""
    cfg, written = run.cfg, "both neighbor files and neighbors.png"
    for split, dataset, topk, index in (
        ("train", train_set, cfg.num_neighbors, cfg.knn_index),
        ("val", val_set, VAL_NEIGHBORS, "Flat"),
    ):
        vectors = near(features[split], run.device)
        backend = search.choose_backend(vectors, cfg.knn_backend, index, run.device)
        neighbors = mine_neighbors(vectors, topk, backend, index, run.device)  # (N, T + 1)
        run.folder.save_neighbors(split, to_npy(neighbors), topk)
        run.log.note(f"mined the {topk} nearest neighbors of {len(dataset)} {split} images with {backend}")
        if index != "Flat":
            found = search.recall(neighbors, vectors, RECALL_SAMPLE, run.device)
            sample = f"{min(RECALL_SAMPLE, len(dataset)):,} images"
            run.log.note(f"knn_index {index} found {found:.1%} of the exact neighbors of {sample}")
        if dataset.is_labelled:
            accuracy = neighbor_accuracy(neighbors, dataset.targets, topk)
            run.log.final(f"neighbors of the {split} split", {f"right among the top {topk}": accuracy})
        if split == "train":
            try:
                plot_neighbors(dataset, neighbors.numpy(), run.path / "neighbors.png")
            except UserError as error:  # the features are there, and the images are not
                run.log.note(f"neighbors.png is left out: {error}")
                written = "both neighbor files"
    if not (train_set.is_labelled and val_set.is_labelled):
        return written
    baselines = {}
    if comparable_targets(train_set, val_set) is None:
        run.log.note("kNN accuracy left out: the val split has other classes than the train split")
    else:
        baselines["weighted kNN"] = knn_accuracy(features, train_set, val_set, run.device)
    if (classes := len(train_set.classes)) <= len(train_set):
        splits = features["train"], features["val"], val_set.targets
        baselines["k-means"] = from_main(kmeans_accuracy, *splits, classes, cfg.seed)
    run.log.final("pretext features, accuracy on the val split", baselines)
    return written
