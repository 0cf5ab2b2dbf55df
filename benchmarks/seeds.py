"""A recipe over several seeds: accuracy of each stage with mean and spread, k-means beside it, and what it costs.

python benchmarks/seeds.py --recipe digits --seeds 0 1 2 3 4 [--root_dir results/seeds] [key=value of all stages ...]
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import eval as evaluation
import scan
import selflabel
import simclr
from data import build_dataset
from utils.command_line import command
from utils.config import load_config
from utils.errors import UserError
from utils.evaluate import kmeans_accuracy

STAGES = {"pretext": simclr, "scan": scan, "selflabel": selflabel}
COLUMNS = (
    "k-means, pixels",
    "k-means",
    "weighted kNN",
    "scan ACC",
    "scan NMI",
    "selflabel ACC",
    "selflabel NMI",
    "pretext min",
    "scan min",
    "selflabel min",
    "CPU minutes",
    "peak GPU GiB",
)


def finals(folder: Path) -> dict:
    """The results at the end of a stage's log, in one dict."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {name: value for line in lines if "final" in line for name, value in line.items()}


def pixels_baseline(config: str, overrides: list[str]) -> float:
    """ACC on val of k-means fitted on the pixels of the very images that the recipe trains on."""
    cfg = load_config(None, config, overrides)
    train, val = build_dataset(cfg, "train"), build_dataset(cfg, "val")
    pixels = [dataset.images.flatten(1).float() / 255 for dataset in (train, val)]  # (N, 3 H W)
    return kmeans_accuracy(*pixels, val.targets, len(train.classes), cfg.seed)


def run_recipe(recipe: str, root_dir: Path, seed: int, overrides: list[str]) -> list[float]:
    run_name = f"{recipe}-{seed}"
    if (root_dir / run_name).exists():
        raise UserError(f"{root_dir / run_name} exists: a restart would count too little time; name another --root_dir")
    overrides = [f"root_dir={root_dir}", f"run_name={run_name}", f"seed={seed}", *overrides]
    results, minutes, start = {}, [], time.process_time()
    for stage, script in STAGES.items():
        config, begin = f"configs/{stage}/{script.__name__}_{recipe}.yml", time.perf_counter()
        script.main(["--config_exp", config, *overrides])
        minutes.append((time.perf_counter() - begin) / 60)
        results[stage] = finals(root_dir / run_name / stage)
    model = root_dir / run_name / stage / "model.pth.tar"
    evaluation.main(["--config_exp", config, "--model", str(model), *overrides])
    minutes.append((time.process_time() - start) / 60)
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    pretext = [pixels_baseline(config, overrides), *(results["pretext"][name] for name in COLUMNS[1:3])]
    clusters = [results[stage][metric] for stage in ("scan", "selflabel") for metric in ("ACC", "NMI")]
    return [*pretext, *clusters, *minutes, peak]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipe", default="digits", help="digits, fashion_mnist_small, ...: the end of the configs' names"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--root_dir", type=Path, default=Path("results/seeds"))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args(argv)
    rows = {
        seed: run_recipe(arguments.recipe, arguments.root_dir, seed, arguments.overrides) for seed in arguments.seeds
    }
    print("| seed | " + " | ".join(COLUMNS) + " |\n|" + " --- |" * (len(COLUMNS) + 1))
    for seed, row in rows.items():
        print(f"| {seed} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
    if len(rows) > 1:
        for name, statistic in (("mean", statistics.mean), ("std", statistics.stdev)):
            values = (statistic(column) for column in zip(*rows.values(), strict=True))
            print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |")


if __name__ == "__main__":
    command(main)
