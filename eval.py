"""Evaluate a model of any stage: a pretext model by its neighbors' labels; others by figures, a table of which
image is in which cluster, pictures, and a page to look at. Images are the val split, or all of a folder."""

import argparse
from pathlib import Path

import torch

from data import build_dataset
from data.augment import val_transform
from data.folder.pictures import new_pictures
from data.loader.build import EVAL_BATCH_SIZE, eval_loader
from data.loader.features import FeatureLoader
from models import build_model
from models.weights import load_whole, read_weights
from utils.config import check_stage, load_config, view_differences
from utils.console import print_metrics, say
from utils.device import choose_device
from utils.errors import UserError
from utils.evaluate.clustering import clustering_warnings, evaluate_clusters, neighbor_accuracy
from utils.evaluate.label_free_report import judge_without_labels
from utils.features import extract_features, predict
from utils.neighbors.search import check_minable, mine_neighbors
from utils.report.figures import show
from utils.report.outputs import config_of, names_for, write_results
from utils.run.command_line import Parser, command
from utils.run.inputs import check_data_set
from utils.stages import STAGES

NEIGHBORS = (1, 5, 20)
ENOUGH = 10  # new pictures for each cluster


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--config_exp",
        required=True,
        help="the YAML of the model's stage: config.yml beside it has all its settings",
    )
    parser.add_argument("--model", required=True, type=Path, help="model.pth.tar of that stage")
    parser.add_argument(
        "--predict", metavar="FOLDER", help="take all pictures in this folder, not the val split"
    )
    parser.add_argument("--out", type=Path, help="write which image is in which cluster to this CSV file")
    parser.add_argument(
        "--report", action="store_true", help="write report.html, a page to look at, beside the model"
    )
    parser.add_argument(
        "--visualize_prototypes", action="store_true", help="write prototypes.png beside the model"
    )
    parser.add_argument("--show", action="store_true", help="also open the pictures in windows")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the YAML")
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_args(argv)
    cfg = load_config(None, arguments.config_exp, arguments.overrides)
    check_stage(cfg, "eval")
    if arguments.out and (arguments.out.is_dir() or not arguments.out.parent.is_dir()):
        raise UserError(f"--out {arguments.out}: give a file such as table.csv, in a folder that there is")
    weights = read_weights(arguments.model)
    stage = weights.stage
    if stage != STAGES[cfg.setup].folder:
        raise UserError(
            f"{arguments.model} is a {stage} model, but {arguments.config_exp} is a config of the {cfg.setup} stage: "
            f"give the config under configs/{stage}/"
        )
    check_data_set(cfg, arguments.model)
    if differences := view_differences(config_of(arguments.model, cfg), cfg):
        say(
            f"warning: {arguments.model} was trained with other settings than this config has ("
            f"{'; '.join(differences)}): give --config_exp {arguments.model.with_name('config.yml')}"
        )
    device = choose_device(cfg.device)
    model = build_model(cfg)
    say(load_whole(model, weights, arguments.model))
    model = model.to(device, memory_format=torch.channels_last)
    dataset = new_pictures(cfg, arguments.predict) if arguments.predict else build_dataset(cfg, "val")
    loader = eval_loader(dataset, val_transform(cfg.transformation_kwargs), device)
    images = f"{arguments.predict or f'the val split of {cfg.val_db_name}'}, {len(dataset)} images"
    if stage == "pretext":
        judge_neighbors(cfg, arguments, model, loader, images)
    else:
        judge_clusters(cfg, arguments, model, loader, images, weights.head)


def judge_neighbors(cfg, arguments, model, loader, images: str) -> None:
    """What a pretext model is worth: the share of an image's nearest neighbors that have its label."""
    dataset = loader.dataset
    if arguments.visualize_prototypes or arguments.show or arguments.report or arguments.out:
        raise UserError(
            "tables and pictures are of clusters, and a pretext model has none: leave --out, --report, "
            "--visualize_prototypes and --show out"
        )
    if not dataset.is_labelled:
        raise UserError(
            f"{cfg.val_db_name} has no labels, and a pretext model is judged by its neighbors' labels: look at "
            "neighbors.png beside the model instead"
        )
    check_minable(len(dataset), max(NEIGHBORS), cfg.knn_backend, "val")
    neighbors = mine_neighbors(
        extract_features(model, loader).to(loader.device), max(NEIGHBORS), cfg.knn_backend
    )
    right = {f"right among the top {k}": neighbor_accuracy(neighbors, dataset.targets, k) for k in NEIGHBORS}
    print_metrics(f"pretext model {arguments.model} on {images}", right)


def judge_clusters(cfg, arguments, model, loader, images: str, head: int) -> None:
    """What the clusters are like, and what was asked for to show it."""
    dataset = loader.dataset
    if arguments.show and not (arguments.visualize_prototypes or dataset.is_labelled):
        raise UserError(
            f"{cfg.val_db_name} has no labels, so there is no confusion matrix to show: give --visualize_prototypes too"
        )
    names = names_for(arguments.model, cfg.num_classes)
    features = extract_features(model.backbone, loader)  # (N, D)
    once = FeatureLoader(features[None], dataset, [None], EVAL_BATCH_SIZE, loader.device)
    probabilities = predict(model.cluster_head, once)[head]  # (N, K)
    made = config_of(arguments.model, cfg)  # its folders may be others than this config's
    features = features.to(loader.device)  # where neighbors are searched
    metrics = judge_without_labels(
        probabilities,
        features,
        dataset,
        made.pretext_dir,
        made.knn_backend,
        made.get("criterion_kwargs", {}).get("cluster_prior"),
    )
    metrics |= evaluate_clusters(probabilities, dataset.targets)
    stage = STAGES[cfg.setup].folder
    print_metrics(f"{stage} model {arguments.model} on {images}, head {head}", metrics)
    if (
        not arguments.predict or len(dataset) >= ENOUGH * cfg.num_classes
    ):  # a few new pictures need not fill them all
        for caution in clustering_warnings(metrics):
            say(f"warning: {caution}")
    pictures = write_results(arguments, made, images, dataset, probabilities, features, metrics, names)
    if arguments.show:
        show(pictures)


if __name__ == "__main__":
    command(main)
