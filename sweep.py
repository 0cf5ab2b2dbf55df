"""Compare settings of SCAN without labels: train cluster heads with each, over seeds, on the frozen backbone.

docs/number-of-clusters.md explains the columns and how the number of clusters is suggested."""

import argparse
import hashlib
import math
import os
import re
import runpy
from itertools import combinations, product
from pathlib import Path

import torch
from easydict import EasyDict
from torch import Tensor

runpy.run_path(Path(__file__).resolve().parent / "utils/start.py", run_name=__name__)

import scan
from data import build_dataset
from data.augment import val_transform
from data.loader import eval_loader
from models import build_model, use_plain_view
from models.weights import load_whole, read_weights
from utils.config.values import is_literal, write_override
from utils.console import say, warnings_ignored
from utils.device import choose_device
from utils.distributed import from_main
from utils.errors import UserError
from utils.evaluate.clustering import evaluate_clusters
from utils.evaluate.label_free import silhouette
from utils.features import cached_features, predict_from
from utils.mypath import written
from utils.report import sweep_table
from utils.report.log import read_epochs
from utils.run import command, stage_config
from utils.run.command_line import stage_parser
from utils.run.folder import RunFolder
from utils.stages import MODEL
from utils.storage.files import write_whole

SET_HERE = {"seed", "update_cluster_head_only"}  # keys that the sweep sets for each run


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The arguments of a stage, `seeds`, and `variants`, one {key: value} for each combination."""
    parser = stage_parser((__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--vary", action="append", required=True, metavar="KEY=v1,v2", help="a key and its values")
    add("--seeds", nargs="+", default=["0", "1", "2"], help="default: 0 1 2; agreement needs two")
    arguments = parser.parse_intermixed_args(argv)
    arguments.overrides += [word for word in arguments.seeds if "=" in word]  # which argparse takes for seeds
    arguments.seeds = [word for word in arguments.seeds if "=" not in word]
    if not arguments.seeds:
        raise UserError("--seeds is empty: give two or more, such as --seeds 0 1 2")
    varied = {}
    for option in arguments.vary:
        key, _, text = option.partition("=")
        comma = r"(?<!\\)," if is_literal(key) else r",(?![^\[]*\])"  # text may have `\,`; lists stay whole
        values = [value.strip().replace("\\,", ",") for value in re.split(comma, text)]
        if key in varied or not all(values):
            raise UserError(f"--vary {option}: give a key once, with all its values, as num_classes=5,10,20")
        varied[key] = values
    given = {override.partition("=")[0] for override in arguments.overrides}
    if refused := SET_HERE & (varied.keys() | given) | {"root_dir", "run_name"} & varied.keys():
        raise UserError(f"{', '.join(refused)}: the sweep sets this itself; give seeds as --seeds 0 1 2")
    arguments.variants = [dict(zip(varied, values, strict=True)) for values in product(*varied.values())]
    return arguments


def plan(arguments: argparse.Namespace) -> tuple[Path, list[list[list[str]]]]:
    """The sweep's folder, and the command line of scan.py for each variant and seed.

    Raises UserError for what would stop one of the runs before its training."""
    options = ["--config_exp", written(arguments.config_exp), *["--restart"] * arguments.restart]
    options += ["--config_env", written(arguments.config_env)] if arguments.config_env else []
    given = ["update_cluster_head_only=True", *arguments.overrides]
    variants = [[f"{key}={value}" for key, value in settings.items()] for settings in arguments.variants]
    base = scan_config([*options, *given, *variants[0]])
    defaults = [write_override("pretext_dir", base.pretext_dir)]
    defaults += ["cached_views=8"] * (base.cached_views == 0 and base.augmentation_strategy != "plain")
    commands, configs = [[] for _ in variants], []
    for (words, of_seeds), seed in product(zip(variants, commands, strict=True), arguments.seeds):
        name = ",".join([*words, f"seed={seed}"])
        run_name = f"{base.run_name}/sweep/{folder_name(name)}"
        own = [f"seed={seed}", write_override("run_name", run_name)]
        of_seeds.append([*options, *defaults, *given, *words, *own])
        cfg = scan_config(of_seeds[-1])
        if (settings := {**cfg, "run_name": "", "scan_dir": ""}) in configs:
            raise UserError(f"{name} is there twice: give each value and each seed once")
        configs.append(settings)
        RunFolder(cfg, arguments.restart).start_from()
    return Path(base.root_dir, base.run_name, "sweep"), commands


def folder_name(name: str) -> str:
    """The name of a variant as that of a folder, with a hash if it is too long for one or has a slash."""
    content = os.fsencode(name)
    short = f"{name[:50].replace('/', '_')}...{hashlib.sha256(content).hexdigest()[:12]}"
    return name if len(content) <= 200 and "/" not in name else short


def scan_config(argv: list[str]) -> EasyDict:
    cfg = stage_config(argv, "scan")[0]
    use_plain_view(cfg)
    return cfg


def run_variant(settings: dict[str, str], commands: list[list[str]]) -> sweep_table.Variant:
    """Run each command line of scan.py, unless it is finished, and measure the results."""
    from sklearn.metrics import adjusted_rand_score

    results, clusters = zip(*map(run_seed, commands), strict=True)
    measured = {name: [row[name] for row in results if row[name] is not None] for name in results[0]}
    with warnings_ignored():
        measured["agreement"] = [adjusted_rand_score(*pair) for pair in combinations(clusters, 2)]
    return sweep_table.Variant(settings, scan_config(commands[0]).num_classes, measured)


def run_seed(argv: list[str]) -> tuple[dict[str, float | None], Tensor]:
    """One run of scan.py: its columns, except agreement, and the cluster of each val image, (N,)."""
    scan.main(argv)
    cfg = scan_config(argv)
    folder, device = Path(cfg.root_dir, cfg.run_name, "scan"), choose_device(cfg.device)
    val_set = build_dataset(cfg, "val")
    model, weights = build_model(cfg), read_weights(folder / MODEL, "scan", cfg.pretext_dir)
    load_whole(model, weights, folder / MODEL)
    model = model.to(device, memory_format=torch.channels_last)
    images = eval_loader(val_set, val_transform(cfg.transformation_kwargs), device)
    (features,) = cached_features(Path(cfg.pretext_dir), "features-val", model.backbone, images)  # (N, D)
    probabilities = predict_from(model.head(weights.head), features, device)  # (N, K)
    predictions = probabilities.argmax(dim=1)
    metrics = evaluate_clusters(probabilities, val_set.targets)
    log = folder / "log.jsonl"
    epochs = read_epochs(log).values() if log.is_file() else ()
    losses = [epoch["val/total_loss"] for epoch in epochs if "val/total_loss" in epoch]
    if not losses:
        raise UserError(f"{log} has no val/total_loss: remove {folder}, and the sweep trains it again")
    loss = losses[-1] if cfg.criterion == "temi" else min(losses)  # that of the model
    columns = {"loss": loss / math.log(cfg.num_classes)}
    columns |= {name: metrics[name] for name in ("used_clusters", "effective_clusters")}
    columns |= {"agreement": None, "silhouette": silhouette(features, predictions)}
    columns["ACC"] = metrics.get("ACC")  # for information only
    return columns, predictions


def main(argv: list[str] | None = None) -> None:
    arguments = parse_args(argv)
    folder, commands = plan(arguments)
    variants = list(map(run_variant, arguments.variants, commands))
    rows = [sweep_table.table_row(variant) for variant in variants]
    suggested, sentence = sweep_table.suggest(rows, list(arguments.variants[0]))
    from_main(write_whole, {folder / "sweep.csv": sweep_table.to_csv(rows)})
    from_main(sweep_table.plot_variants, variants, suggested, folder / "sweep.png")
    for line in (*sweep_table.to_lines(rows), f"{folder} holds sweep.csv, sweep.png and the runs", sentence):
        say(line)


if __name__ == "__main__":
    command(main)
