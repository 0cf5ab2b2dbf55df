"""Compare settings of SCAN without labels: cluster heads for each, over several seeds, on the frozen pretext backbone.

docs/number-of-clusters.md says how the number of clusters is suggested and what the columns mean."""

import argparse
import csv
import io
import math
import re
import statistics
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from easydict import EasyDict
from matplotlib.figure import Figure
from sklearn.metrics import adjusted_rand_score, silhouette_score
from torch import Tensor
from torch.nn.functional import normalize

import scan
from data import build_dataset
from data.augment import val_strategy
from models import build_model
from models.weights import load_whole, read_weights
from utils.command_line import command, stage_arguments, stage_config, stage_parser
from utils.device import choose_device
from utils.errors import UserError
from utils.evaluate import evaluate_clusters
from utils.features import EVAL_BATCH_SIZE, FeatureLoader, eval_loader, kept_features, predict
from utils.files import write_whole
from utils.handover import MODEL, NEIGHBORS
from utils.image_grid import BLUE, DPI, FAINT, INK, RED, save_figure, shorten
from utils.logger import say
from utils.run import Run
from utils.visualize import read_epochs

OWN_KEYS = ("seed", "run_name", "root_dir", "update_cluster_head_only")
TOLERANCE = 0.05  # of agreement, see `suggest`
SILHOUETTE_IMAGES = 2000
COLUMNS = ("loss", "used_clusters", "effective_clusters", "agreement", "silhouette", "ACC")
SPREAD = ("loss", "agreement", "silhouette")  # columns whose standard deviation is told too
PANELS = {"loss": "validation loss / ln K", "used_clusters": "used clusters"}
PANELS |= {"agreement": "agreement between seeds", "silhouette": "silhouette"}


class Variant(NamedTuple):
    """One combination of the varied keys, and what its runs gave.

    settings: varied key -> value as given. measured: column -> one number for each seed (of agreement, each pair of
    seeds), without those that are undefined."""

    settings: dict[str, str]
    clusters: int
    seeds: int
    measured: dict[str, list[float]]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line: `variants`, one {key: value} for each combination, `seeds` and what a stage takes."""
    parser = stage_parser(__doc__.partition("\n")[0])
    parser.add_argument("--vary", action="append", required=True, metavar="KEY=v1,v2", help="a key and its values")
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"], help="default: 0 1 2; agreement needs two")
    arguments = parser.parse_intermixed_args(argv)
    arguments.overrides += [word for word in arguments.seeds if "=" in word]  # argparse takes what follows --seeds
    arguments.seeds = [word for word in arguments.seeds if "=" not in word]
    if own := [word for word in arguments.overrides if word.partition("=")[0] in ("seed", "update_cluster_head_only")]:
        raise UserError(f"{own[0]}: the sweep sets this key itself; give seeds as --seeds 0 1 2")
    varied = parse_vary(arguments.vary)
    arguments.variants = [dict(zip(varied, values, strict=True)) for values in product(*varied.values())]
    return arguments


def parse_vary(options: Sequence[str]) -> dict[str, list[str]]:
    """`KEY=v1,v2,...` as {key: values}; a value may be a list in brackets. Raises UserError for a key that stands twice
    or is the sweep's own, and where there is no value."""
    varied = {}
    for option in options:
        key, _, text = option.partition("=")
        values = [value.strip() for value in re.split(r",(?![^\[]*\])", text)]
        if not all(values):
            raise UserError(f"--vary {option} lacks a value: write it as KEY=v1,v2, such as num_classes=5,10,20")
        if key in varied:
            raise UserError(f"--vary {key} stands twice: give all its values at once, {key}=v1,v2,v3")
        if key in OWN_KEYS:
            raise UserError(f"--vary {key}: the sweep sets this key itself; vary another one (seeds: --seeds 0 1 2)")
        varied[key] = values
    return varied


def plan(arguments: argparse.Namespace) -> tuple[Path, list[list[list[str]]]]:
    """The sweep's folder, and for each variant and seed the command line of scan.py. Raises UserError for what would
    stop one of the runs before its training."""
    options = ["--config_exp", arguments.config_exp, *["--restart"] * arguments.restart]
    options += ["--config_env", arguments.config_env] if arguments.config_env else []
    given = ["update_cluster_head_only=True", *arguments.overrides]
    variants = [[f"{key}={value}" for key, value in settings.items()] for settings in arguments.variants]
    base = stage_config(stage_arguments([*options, *given, *variants[0]], ""), "scan")
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
            Run(cfg, arguments.restart).starts_from(cfg.pretext_dir, MODEL, *NEIGHBORS.values())
    return Path(base.root_dir, base.run_name, "sweep"), commands


def config_of(argv: list[str]) -> EasyDict:
    return stage_config(stage_arguments(argv, ""), "scan")


def run_variant(settings: dict[str, str], commands: list[list[str]], features_path: Path) -> Variant:
    """Train the heads with each command line of scan.py, as far as that is not done yet, and measure what they say."""
    cfg = config_of(commands[0])
    val_set = build_dataset(cfg, "val")
    measured, predictions = {name: [] for name in COLUMNS}, []
    for command_line in commands:
        scan.main(command_line)
        cfg = config_of(command_line)
        outcome, clusters = measure(cfg, val_set, features_path)
        predictions.append(clusters)
        for name, value in outcome.items():
            measured[name] += [] if value is None else [value]
    measured["agreement"] = agreements(predictions)
    return Variant(settings, cfg.num_classes, len(commands), measured)


def measure(cfg, val_set, features_path: Path) -> tuple[dict[str, float | None], Tensor]:
    """What a finished run is worth by each column but agreement, and the cluster of each val image, (N,)."""
    folder, device = Path(cfg.root_dir, cfg.run_name, "scan"), choose_device(cfg.device)
    model, weights = build_model(cfg), read_weights(folder / MODEL, "scan")
    load_whole(model, weights, folder / MODEL)
    model = model.to(device, memory_format=torch.channels_last)
    features = kept_features(features_path, model.backbone, eval_loader(val_set, val_strategy(cfg), device))  # (1, N, D)
    loader = FeatureLoader(features, val_set, [None], EVAL_BATCH_SIZE, device)
    probabilities = predict(model.cluster_head, loader)[weights.head]  # (N, K)
    predictions = probabilities.argmax(dim=1)
    report = evaluate_clusters(probabilities, val_set.targets)
    lowest = min(epoch["val/total_loss"] for epoch in read_epochs(folder / "log.jsonl").values())
    return {
        "loss": lowest / math.log(cfg.num_classes),
        "used_clusters": report["used_clusters"],
        "effective_clusters": report["effective_clusters"],
        "silhouette": _silhouette(normalize(features[0], dim=1), predictions),
        "ACC": report.get("ACC"),  # for information alone
    }, predictions


def _silhouette(features: Tensor, predictions: Tensor, seed: int = 0) -> float | None:
    """Mean silhouette of the clusters (predictions, (N,)) in features (N, D), of at most 2,000 images drawn at random;
    None where they are all in one cluster, or each in its own."""
    rows = np.random.default_rng(seed).permutation(len(features))[:SILHOUETTE_IMAGES]
    labels = predictions.numpy()[rows]
    if not 1 < len(np.unique(labels)) < len(labels):
        return None
    return float(silhouette_score(features.numpy()[rows], labels))


def agreements(predictions: Sequence[Tensor]) -> list[float]:
    """Adjusted Rand index of each pair of clusterings, (N,) each: 1 for the same clusters, 0 for chance."""
    return [float(adjusted_rand_score(first, second)) for first, second in combinations(predictions, 2)]


def suggest(variants: Sequence[Variant]) -> int | None:
    """Of the numbers of clusters at which every seed uses all its clusters, the largest whose mean agreement is within
    0.05 of the highest of them; None if there is none."""
    means = {
        variant.clusters: statistics.mean(variant.measured["agreement"])
        for variant in variants
        if min(variant.measured["used_clusters"]) == variant.clusters and variant.measured["agreement"]
    }
    near = [clusters for clusters, mean in means.items() if max(means.values()) - mean <= TOLERANCE + 1e-9]
    return max(near, default=None)


def verdict(variants: Sequence[Variant]) -> tuple[int | None, str]:
    """The suggested number of clusters, and the sentence that says so or why there is none."""
    if variants[0].seeds < 2:
        return None, "nothing is suggested: the agreement between seeds needs at least two, --seeds 0 1"
    if variants[0].settings.keys() != {"num_classes"}:
        return None, "no number of clusters is suggested: for that vary num_classes, and nothing else"
    if (clusters := suggest(variants)) is None:
        return None, "no number of clusters is suggested: at none of them does every seed use all its clusters"
    return clusters, (
        f"suggested number of clusters: {clusters} (of those at which every seed uses all its clusters, the largest "
        f"whose agreement is within {TOLERANCE} of the highest)"
    )


def summary(variant: Variant) -> dict[str, str | int | float | None]:
    """The row of a variant: of each column the mean over seeds, the least of `used_clusters`, None for unknown."""
    row = {**variant.settings, "clusters": variant.clusters, "seeds": variant.seeds}
    for name, values in variant.measured.items():
        row[name] = (min if name == "used_clusters" else statistics.mean)(values) if values else None
        if name in SPREAD:
            row[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
    return row


def to_csv(rows: Sequence[dict]) -> bytes:
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def print_table(rows: Sequence[dict]) -> None:
    cells = [list(rows[0])]
    for row in rows:
        cells.append(["-" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        say("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def plot(variants: Sequence[Variant], suggested: int | None, path: Path) -> None:
    """Four panels over the variants: a dot for each seed (agreement: each pair of seeds), a line through the means."""
    names = [shorten(", ".join(variant.settings.values()), 20) for variant in variants]
    figure = Figure(figsize=(max(6.4, 2 + 0.6 * len(names)), 5.2), dpi=DPI, layout="constrained")
    for axes, (name, title) in zip(figure.subplots(2, 2, sharex=True).flat, PANELS.items(), strict=True):
        for place, variant in enumerate(variants):
            values = variant.measured[name]
            axes.plot([place] * len(values), values, "o", color=FAINT, markersize=3.5, alpha=0.7)
        means = [statistics.mean(variant.measured[name] or [math.nan]) for variant in variants]
        axes.plot(means, color=BLUE, marker="o", markersize=5, linewidth=1.4)
        if suggested is not None:
            axes.axvline([variant.clusters for variant in variants].index(suggested), color=RED, linewidth=1, zorder=0)
        axes.set_title(title, fontsize=9, color=INK, loc="left")
        axes.set_xticks(range(len(names)), names, parse_math=False)
        axes.grid(color="#e6e6e6", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[:].set(color="#bbbbbb", linewidth=0.6)
        axes.tick_params(labelsize=7, colors=INK, color=FAINT, width=0.6)
    figure.supxlabel(", ".join(variants[0].settings), fontsize=8, color=INK)
    title = "Variants by criteria that need no label" + (f"; suggested: {suggested} clusters" if suggested else "")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)
    save_figure(figure, path)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_args(argv)
    folder, commands = plan(arguments)
    variants = [
        run_variant(settings, of_seeds, folder / "features-val.npy")
        for settings, of_seeds in zip(arguments.variants, commands, strict=True)
    ]
    rows = [summary(variant) for variant in variants]
    suggested, sentence = verdict(variants)
    write_whole({folder / "sweep.csv": to_csv(rows)})
    plot(variants, suggested, folder / "sweep.png")
    print_table(rows)
    say(f"{folder} holds sweep.csv, sweep.png and the runs")
    say(sentence)


if __name__ == "__main__":
    command(main)
