"""Evaluate a model of any stage on the val split, or on all images of a folder.

A pretext model is evaluated by the labels of its neighbors, others by their clusters."""

import argparse
import os
import runpy
from contextlib import suppress
from pathlib import Path

import torch

runpy.run_path(Path(__file__).resolve().parent / "utils/start.py", run_name=__name__)

from data import build_dataset
from data.augment import val_transform
from data.folder.pictures import new_pictures
from data.loader import eval_loader
from models import build_model, use_plain_view
from models.step_1 import features_of_step_1
from models.weights import load_best_head, load_whole, read_weights
from utils.config import check_stage, load_config
from utils.config.load import view_differences
from utils.console import print_metrics, say
from utils.device import choose_device
from utils.distributed import first_on_machine, from_main
from utils.errors import RunError, UserError, needed
from utils.evaluate.clustering import MODULES, clustering_warnings, evaluate_clusters, neighbor_accuracy
from utils.evaluate.kmeans import read_centres
from utils.evaluate.label_free_report import judge_without_labels
from utils.evaluate.steps import compare_steps, step_warnings
from utils.features import extract_features, predict, predict_from
from utils.mypath import written
from utils.neighbors.search import check_minable, mine_neighbors
from utils.report.cluster_cards import Clustering
from utils.report.outputs import check_places, read_names, show, write_outputs
from utils.run.command_line import Parser, command, given_path
from utils.run.inputs import check_data_set, check_same_everywhere, shell_line
from utils.stages import KMEANS, MODEL, STAGES
from utils.storage.files import read_manifest, sha256_of

TOPK = (1, 5, 20)  # neighbors by which a pretext model is evaluated
JUDGED_WITH = {"knn_backend", "pretext_dir", "scan_dir", "run_name", "criterion_kwargs"}  # not as in training
ENOUGH = 10  # new images for each cluster: fewer may well leave one empty


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--config_env", type=given_path, help="where results go (default: configs/env.yml, if present)")
    experiment = "the YAML of the model's stage, such as config.yml beside it"
    add("--config_exp", required=True, type=given_path, help=experiment)
    add("--model", required=True, type=given_path, help="model.pth.tar of that stage")
    folder = "take all images in this folder, not the val split"
    add("--predict", type=given_path, metavar="FOLDER", help=folder)
    add("--out", type=given_path, help="write which image is in which cluster to this CSV file")
    page = "write a page to look at to FILE, all else beside it (default: report.html beside the model)"
    add("--report", type=page_or_setting, nargs="?", const=True, metavar="FILE", help=page)
    add("--visualize_prototypes", action="store_true", help="write prototypes.png beside the model or page")
    add("--show", action="store_true", help="also open the figures in an image viewer")
    add("overrides", nargs="*", metavar="key=value", help="settings that win over the YAML")
    asked = parser.parse_intermixed_args(argv)
    if isinstance(asked.report, str):
        asked.overrides.append(asked.report)
        asked.report = True
    return asked


def page_or_setting(text: str) -> Path | str:
    """What follows --report: the FILE, or a setting, which argparse takes for it."""
    return text if "=" in text and not text.endswith(".html") else given_path(text)


def check_fit(asked: argparse.Namespace, cfg, stage: str) -> None:
    """Raise UserError if the model is not of this config, or cannot give what is asked for."""
    if stage != STAGES[cfg.setup].folder:
        raise UserError(f"{asked.model} is a {stage} model, not for {asked.config_exp}: see configs/{stage}/")
    check_data_set(cfg, asked.model)
    if stage == "pretext" and (asked.out or asked.report or asked.visualize_prototypes or asked.show):
        raise UserError("a pretext model has no clusters: no --out, --report, --show, --visualize_prototypes")
    if asked.predict and cfg.backbone == "features":
        raise UserError(
            "--predict needs a network, but this backbone is features: leave it out, or give --out"
        )
    check_places(asked)
    needed(*MODULES * (stage != "pretext"), *["jinja2"] * bool(asked.report))


def settings_in(path: Path):
    """The config of a model's training. Raises UserError if it is damaged or lacks a key."""
    cfg = load_config(os.devnull, path)
    try:
        check_stage(cfg, "eval")
    except UserError as error:
        raise UserError(f"{path}: {error}, or remove the file") from error
    return cfg


def judge_neighbors(cfg, loader, model) -> dict[str, float]:
    """Share of an image's nearest neighbors that have its label."""
    dataset, topk = loader.dataset, max(TOPK)
    if not dataset.is_labelled:
        raise UserError(f"{cfg.val_db_name} has no labels: look at neighbors.png beside the model")
    check_minable(len(dataset), topk, cfg.knn_backend, "val")
    neighbors = mine_neighbors(extract_features(model, loader).to(loader.device), topk, cfg.knn_backend)
    return {f"right among the top {k}": neighbor_accuracy(neighbors, dataset.targets, k) for k in TOPK}


def judge_clusters(cfg, loader, model, head: int, names: dict[int, str]) -> Clustering:
    """The clusters by the best head, with their metrics; cfg: of the model's training."""
    dataset = loader.dataset
    features = extract_features(model.backbone, loader)  # (N, D)
    probabilities = predict_from(model.head(head), features, loader.device)  # (N, K)
    features = features.to(loader.device)  # where neighbors are searched
    prior = cfg.get("criterion_kwargs", {}).get("cluster_prior")
    metrics = judge_without_labels(probabilities, features, dataset, cfg.pretext_dir, cfg.knn_backend, prior)
    metrics |= evaluate_clusters(probabilities, dataset.targets)
    return Clustering(dataset, probabilities, features, metrics, names)


def made_from(model: Path) -> str | None:
    """The SHA-256 of the SCAN model that self-labelling began with."""
    return (read_manifest(model) or {}).get("made_from", {}).get(MODEL)


def judge_steps(asked, cfg, loader, clustering: Clustering) -> dict[str, float]:
    """`compare_steps` of a model's clusters, after self-labelling also of the SCAN model's in `scan_dir`. {}
    without the backbone of step 1. cfg: of the model's training."""
    if cfg.setup == "scan" and cfg.get("update_cluster_head_only"):
        features = [clustering.features]  # the backbone is that of step 1
    elif not (features := features_of_step_1(cfg, **{"new" if asked.predict else "val": loader})):
        return {}
    steps, scan_model = {cfg.setup: clustering.probabilities}, asked.model
    if cfg.setup == "selflabel":
        model, scan_model = build_model(cfg), Path(cfg.scan_dir, MODEL)
        with suppress(UserError, RunError, OSError):
            if sha256_of(scan_model) != made_from(asked.model):
                return {}
            load_best_head(model, scan_model, cfg.pretext_dir)
            (before,) = predict(model.to(loader.device, memory_format=torch.channels_last), loader)
            steps = {"scan": before, **steps}
    (step_1,) = features
    kmeans = read_centres(scan_model.with_name(KMEANS), step_1.shape[1])
    return from_main(compare_steps, step_1, kmeans, steps, loader.dataset.targets)


def main(argv: list[str] | None = None) -> None:
    asked = parse_args(argv)
    cfg = load_config(asked.config_env, asked.config_exp, asked.overrides)
    check_stage(cfg, "eval")
    use_plain_view(cfg)
    stage, _, head = weights = read_weights(asked.model, None, cfg.pretext_dir)
    check_fit(asked, cfg, stage)
    own = asked.model.with_name("config.yml")
    trained = settings_in(own) if own.exists() else cfg  # published models have none
    given = {word.partition("=")[0] for word in asked.overrides}
    trained.update({key: cfg[key] for key in JUDGED_WITH & {name.partition(".")[0] for name in given}})
    if differences := "; ".join(view_differences(trained, cfg)):
        remedy = shell_line("--config_exp", written(own))
        say(f"warning: other settings than in the training ({differences}): give {remedy}")
    model, device = build_model(cfg), choose_device(cfg.device)
    say(load_whole(model, weights, asked.model))
    model = model.to(device, memory_format=torch.channels_last)
    needs_labels = "folder.labels" in given
    if asked.predict:
        dataset = first_on_machine(lambda: new_pictures(cfg, asked.predict, needs_labels))
    else:
        dataset = build_dataset(cfg, "val")
    check_same_everywhere((dataset.fingerprint, sha256_of(asked.model)))
    loader = eval_loader(dataset, val_transform(cfg.transformation_kwargs), device)
    images = f"{asked.predict or f'the val split of {cfg.val_db_name}'}, {len(dataset)} images"
    title = f"{stage} model {asked.model} on {images}"
    if stage == "pretext":
        print_metrics(title, judge_neighbors(cfg, loader, model))
        return
    if asked.show and not (asked.visualize_prototypes or dataset.is_labelled):
        raise UserError(f"nothing to show, as {cfg.val_db_name} has no labels: give --visualize_prototypes")
    names = read_names(asked.model, cfg.num_classes)
    clustering = judge_clusters(trained, loader, model, head, names)
    clustering.metrics.update(judge_steps(asked, trained, loader, clustering))
    print_metrics(f"{title}, head {head}", clustering.metrics)
    if not asked.predict or len(dataset) >= ENOUGH * cfg.num_classes:
        for warning in (*clustering_warnings(clustering.metrics), *step_warnings(clustering.metrics)):
            say(f"warning: {warning}")
    pictures = from_main(write_outputs, asked, trained, images, clustering)
    if asked.show:
        from_main(show, pictures)


if __name__ == "__main__":
    command(main)
