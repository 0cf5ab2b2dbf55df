"""Compare settings of SCAN without labels: cluster heads for each, over several seeds, on the frozen pretext backbone.

docs/number-of-clusters.md says how the number of clusters is suggested and what the columns mean."""

import argparse
import math
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
from easydict import EasyDict
from torch import Tensor

import scan
from data import build_dataset
from data.augment import val_transform
from data.loader.build import EVAL_BATCH_SIZE, eval_loader
from data.loader.features import FeatureLoader
from models import build_model
from models.weights import load_whole, read_weights
from utils.console import say
from utils.device import choose_device
from utils.errors import UserError
from utils.evaluate.clustering import evaluate_clusters
from utils.evaluate.label_free import silhouette
from utils.features import cached_features, predict
from utils.report.figures import read_epochs
from utils.report.sweep_table import Variant, agreements, plot_variants, summary, to_csv, to_lines, verdict
from utils.run.command_line import command, stage_config, stage_parser
from utils.run.folder import RunFolder
from utils.stages import MODEL
from utils.storage.files import write_whole

NOT_VARIED = ("seed", "run_name", "root_dir", "update_cluster_head_only")
COLUMNS = ("loss", "used_clusters", "effective_clusters", "agreement", "silhouette", "ACC")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line: `variants`, one {key: value} for each combination, `seeds` and what a stage takes."""
    parser = stage_parser(__doc__.partition("\n")[0])
    parser.add_argument(
        "--vary", action="append", required=True, metavar="KEY=v1,v2", help="a key and its values"
    )
    parser.add_argument(
        "--seeds", nargs="+", default=["0", "1", "2"], help="default: 0 1 2; agreement needs two"
    )
    arguments = parser.parse_intermixed_args(argv)
    arguments.overrides += [
        word for word in arguments.seeds if "=" in word
    ]  # argparse takes what follows --seeds
    arguments.seeds = [word for word in arguments.seeds if "=" not in word]
    if not arguments.seeds:
        raise UserError("--seeds names none: give two or more, such as --seeds 0 1 2")
    if own := [
        word for word in arguments.overrides if word.partition("=")[0] in ("seed", "update_cluster_head_only")
    ]:
        raise UserError(f"{own[0]}: the sweep sets this key itself; give seeds as --seeds 0 1 2")
    varied = parse_vary(arguments.vary)
    arguments.variants = [dict(zip(varied, values, strict=True)) for values in product(*varied.values())]
    return arguments


def parse_vary(options: Sequence[str]) -> dict[str, list[str]]:
    """`KEY=v1,v2,...` as {key: values}; a value may be a list in brackets. Raises UserError for a key that stands twice
    or cannot be varied, and where there is no value."""
    varied = {}
    for option in options:
        key, _, text = option.partition("=")
        values = [value.strip() for value in re.split(r",(?![^\[]*\])", text)]
        if not all(values):
            raise UserError(
                f"--vary {option} lacks a value: write it as KEY=v1,v2, such as num_classes=5,10,20"
            )
        if key in varied:
            raise UserError(f"--vary {key} stands twice: give all its values at once, {key}=v1,v2,v3")
        if key in NOT_VARIED:
            raise UserError(
                f"--vary {key}: this key cannot be varied, vary another one (seeds: --seeds 0 1 2)"
            )
        varied[key] = values
    return varied


def plan(arguments: argparse.Namespace) -> tuple[Path, list[list[list[str]]]]:
    """The sweep's folder, and for each variant and seed the command line of scan.py. Raises UserError for what would
    stop one of the runs before its training."""
    options = ["--config_exp", arguments.config_exp, *["--restart"] * arguments.restart]
    options += ["--config_env", arguments.config_env] if arguments.config_env else []
    given = ["update_cluster_head_only=True", *arguments.overrides]
    variants = [[f"{key}={value}" for key, value in settings.items()] for settings in arguments.variants]
    base = config_of([*options, *given, *variants[0]])
    defaults = [f"pretext_dir={base.pretext_dir}", *["cached_views=8"] * (base.cached_views == 0)]
    commands, configs = [], []
    for words in variants:
        commands.append([])
        for seed in arguments.seeds:
            name = ",".join([*words, f"seed={seed}"])
            own = [f"seed={seed}", f"run_name={base.run_name}/sweep/{name.replace('/', '_')}"]
            commands[-1].append([*options, *defaults, *given, *words, *own])
            cfg = config_of(commands[-1][-1])
            if (settings := {**cfg, "run_name": "", "scan_dir": ""}) in configs:
                raise UserError(f"{name} is there twice: give each value and each seed once")
            configs.append(settings)
            RunFolder(cfg, arguments.restart).start_from()
    return Path(base.root_dir, base.run_name, "sweep"), commands


def config_of(argv: list[str]) -> EasyDict:
    return stage_config(argv, "scan")[0]


def run_variant(settings: dict[str, str], commands: list[list[str]], folder: Path) -> Variant:
    """Train the heads with each command line of scan.py, as far as that is not done yet, and measure what they say."""
    cfg = config_of(commands[0])
    val_set = build_dataset(cfg, "val")
    measured, predictions = {name: [] for name in COLUMNS}, []
    for command_line in commands:
        scan.main(command_line)
        cfg = config_of(command_line)
        outcome, clusters = measure(cfg, val_set, folder)
        predictions.append(clusters)
        for name, value in outcome.items():
            measured[name] += [] if value is None else [value]
    measured["agreement"] = agreements(predictions)
    return Variant(settings, cfg.num_classes, len(commands), measured)


def measure(cfg, val_set, sweep_folder: Path) -> tuple[dict[str, float | None], Tensor]:
    """What a finished run is worth by each column but agreement, and the cluster of each val image, (N,)."""
    folder, device = Path(cfg.root_dir, cfg.run_name, "scan"), choose_device(cfg.device)
    model, weights = build_model(cfg), read_weights(folder / MODEL, "scan")
    load_whole(model, weights, folder / MODEL)
    model = model.to(device, memory_format=torch.channels_last)
    images = eval_loader(val_set, val_transform(cfg.transformation_kwargs), device)
    features = cached_features(sweep_folder, "features-val", model.backbone, images)  # (1, N, D)
    loader = FeatureLoader(features, val_set, [None], EVAL_BATCH_SIZE, device)
    probabilities = predict(model.cluster_head, loader)[weights.head]  # (N, K)
    predictions = probabilities.argmax(dim=1)
    report = evaluate_clusters(probabilities, val_set.targets)
    lowest = min(epoch["val/total_loss"] for epoch in read_epochs(folder / "log.jsonl").values())
    return {
        "loss": lowest / math.log(cfg.num_classes),
        "used_clusters": report["used_clusters"],
        "effective_clusters": report["effective_clusters"],
        "silhouette": silhouette(features[0], predictions),
        "ACC": report.get("ACC"),  # for information alone
    }, predictions


def main(argv: list[str] | None = None) -> None:
    arguments = parse_args(argv)
    folder, commands = plan(arguments)
    variants = [
        run_variant(settings, of_seeds, folder)
        for settings, of_seeds in zip(arguments.variants, commands, strict=True)
    ]
    rows = [summary(variant) for variant in variants]
    suggested, sentence = verdict(rows, list(arguments.variants[0]))
    write_whole({folder / "sweep.csv": to_csv(rows)})
    plot_variants(variants, suggested, folder / "sweep.png")
    for line in (*to_lines(rows), f"{folder} holds sweep.csv, sweep.png and the runs", sentence):
        say(line)


if __name__ == "__main__":
    command(main)
