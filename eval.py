"""Evaluate a model of any stage on the val split: neighbor accuracy for a pretext model, clustering metrics else."""

import argparse
from pathlib import Path

import torch

from data import build_dataset
from data.augment import val_strategy
from data.dataset import is_labelled
from models import build_model
from models.weights import load_whole, read_weights
from utils.command_line import Parser, command
from utils.config import check_stage, load_config
from utils.device import choose_device
from utils.errors import RunError, UserError
from utils.evaluate import evaluate_clusters, neighbor_accuracy, prototypes
from utils.features import eval_loader, extract_features, predict
from utils.handover import MODEL, STAGE_FOLDERS, check_data_set
from utils.logger import print_metrics, say
from utils.neighbors import check_minable, mine_neighbors
from utils.visualize import plot_matching, plot_prototypes, show

NEIGHBORS = (1, 5, 20)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--config_exp", required=True, help="the YAML of the stage that the model comes from")
    parser.add_argument("--model", required=True, type=Path, help="model.pth.tar of that stage")
    parser.add_argument("--visualize_prototypes", action="store_true", help="write prototypes.png beside the model")
    parser.add_argument("--show", action="store_true", help="also open the pictures in windows")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the YAML")
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_args(argv)
    cfg = load_config(None, arguments.config_exp, arguments.overrides)
    check_stage(cfg, "eval")
    weights = read_weights(arguments.model)
    stage = weights.stage
    if stage != STAGE_FOLDERS[cfg.setup]:
        raise UserError(
            f"{arguments.model} is a {stage} model, but {arguments.config_exp} is a config of the {cfg.setup} stage: "
            f"give the config under configs/{stage}/"
        )
    check_data_set(cfg, arguments.model)
    device = choose_device(cfg.device)
    model = build_model(cfg)
    say(load_whole(model, weights, arguments.model))
    model = model.to(device, memory_format=torch.channels_last)
    dataset = build_dataset(cfg, "val")
    loader = eval_loader(dataset, val_strategy(cfg), device)
    title = f"{stage} model {arguments.model} on the val split of {cfg.val_db_name}, {len(dataset)} images"

    if stage == "pretext":
        if arguments.visualize_prototypes or arguments.show:
            raise UserError(
                "pictures are of clusters, and a pretext model has none: leave --visualize_prototypes and --show out"
            )
        if not is_labelled(dataset):
            raise UserError(
                f"{cfg.val_db_name} has no labels, and a pretext model is judged by its neighbors' labels: "
                "look at neighbors.png beside the model instead"
            )
        check_minable(len(dataset), max(NEIGHBORS), cfg.knn_backend, "val")
        features = extract_features(model, loader).to(device)
        neighbors = mine_neighbors(features, max(NEIGHBORS), cfg.knn_backend)
        right = {f"right among the top {k}": neighbor_accuracy(neighbors, dataset.targets, k) for k in NEIGHBORS}
        print_metrics(title, right)
        return

    if arguments.show and not (arguments.visualize_prototypes or is_labelled(dataset)):
        raise UserError(
            f"{cfg.val_db_name} has no labels, so there is no confusion matrix to show: give --visualize_prototypes too"
        )
    probabilities = predict(model, loader)[weights.head]  # (N, K)
    metrics = evaluate_clusters(probabilities, dataset.targets)
    print_metrics(f"{title}, head {weights.head}", metrics)
    pictures, path = [], picture_path(arguments.model, "confusion_matrix.png")
    try:
        pictures += plot_matching(dataset, probabilities.argmax(dim=1), metrics, path)
    except RunError as error:  # the figures are what was asked for
        say(f"no confusion matrix: {error}")
    say_written("confusion matrix", pictures)
    if arguments.visualize_prototypes:
        chosen = prototypes(probabilities, extract_features(model.backbone, loader))
        names = cluster_names(metrics, dataset.classes, probabilities.shape[1])
        pages = plot_prototypes(dataset, chosen, names, picture_path(arguments.model, "prototypes.png"))
        say_written("prototypes", pages)
        pictures += pages
    if arguments.show:
        show(pictures)


def picture_path(model: Path, name: str) -> Path:
    """`name` beside the model, so that the models of one folder have each its own: `scan_stl-10.pth.tar` and
    `prototypes.png` give `scan_stl-10-prototypes.png`, a stage's `model.pth.tar` gives `prototypes.png`."""
    stem = model.name.removesuffix(".tar").removesuffix(".pth")
    return model.with_name(name if model.name == MODEL else f"{stem}-{name}")


def say_written(what: str, paths: list[Path]) -> None:
    if paths:
        say(f"{what}: {paths[0]}" + (f" to {paths[-1].name}" if len(paths) > 1 else ""))


def cluster_names(metrics: dict, classes: list[str], num_clusters: int) -> dict[int, str]:
    """`cluster 3`, with the class that it was matched to where labels are known."""
    matched = dict(metrics.get("hungarian_match", []))
    return {k: f"cluster {k}: {classes[matched[k]]}" if k in matched else f"cluster {k}" for k in range(num_clusters)}


if __name__ == "__main__":
    command(main)
