"""Evaluate a model of any stage on the val split: neighbor accuracy for a pretext model, clustering metrics else."""

import argparse
from pathlib import Path

import torch

from data import build_dataset
from data.augment import val_strategy
from data.dataset import is_labelled
from models import build_model
from models.weights import load_strictly, read_file, stage_of
from utils.command_line import Parser, command
from utils.config import check_stage, load_config
from utils.device import choose_device
from utils.errors import UserError
from utils.evaluate import evaluate_clusters, neighbor_accuracy, prototypes
from utils.features import eval_loader, extract_features, predict
from utils.handover import STAGE_FOLDERS, check_data_set
from utils.logger import print_metrics
from utils.neighbors import check_minable, mine_neighbors
from utils.visualize import plot_prototypes

NEIGHBORS = (1, 5, 20)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--config_exp", required=True, help="the YAML of the stage that the model comes from")
    parser.add_argument("--model", required=True, type=Path, help="model.pth.tar of that stage")
    parser.add_argument("--visualize_prototypes", action="store_true", help="write prototypes.png beside the model")
    parser.add_argument("--show", action="store_true", help="also open the picture in a window")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the YAML")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.show and not arguments.visualize_prototypes:
        parser.error("--show opens the picture that --visualize_prototypes makes: give both")
    return arguments


def main(argv: list[str] | None = None) -> None:
    arguments = parse_args(argv)
    cfg = load_config(None, arguments.config_exp, arguments.overrides)
    check_stage(cfg, "eval")
    content = read_file(arguments.model)
    stage = stage_of(content, arguments.model)
    if stage != STAGE_FOLDERS[cfg.setup]:
        raise UserError(
            f"{arguments.model} is a {stage} model, but {arguments.config_exp} is a config of the {cfg.setup} stage: "
            f"give the config under configs/{stage}/"
        )
    check_data_set(cfg, arguments.model)
    device = choose_device(cfg.device)
    model = build_model(cfg)
    load_strictly(model, content["model"] if stage == "scan" else content, arguments.model)
    model = model.to(device, memory_format=torch.channels_last)
    dataset = build_dataset(cfg, "val")
    loader = eval_loader(dataset, val_strategy(cfg), device)
    title = f"{stage} model {arguments.model} on the val split of {cfg.val_db_name}, {len(dataset)} images"

    if stage == "pretext":
        if arguments.visualize_prototypes:
            raise UserError(
                "prototypes are of clusters, and a pretext model has none: leave --visualize_prototypes out"
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

    head = content["head"] if stage == "scan" else 0
    probabilities = predict(model, loader)[head]  # (N, K)
    metrics = evaluate_clusters(probabilities, dataset.targets)
    print_metrics(f"{title}, head {head}", metrics)
    if arguments.visualize_prototypes:
        chosen = prototypes(probabilities, extract_features(model.backbone, loader))
        names = cluster_names(metrics, dataset.classes, probabilities.shape[1])
        path = arguments.model.with_name("prototypes.png")
        for written in plot_prototypes(dataset, chosen, names, path, show=arguments.show):
            print(f"prototypes: {written}")


def cluster_names(metrics: dict, classes: list[str], num_clusters: int) -> dict[int, str]:
    """`cluster 3`, with the class that it was matched to where labels are known."""
    matched = dict(metrics.get("hungarian_match", []))
    return {k: f"cluster {k}: {classes[matched[k]]}" if k in matched else f"cluster {k}" for k in range(num_clusters)}


if __name__ == "__main__":
    command(main)
