"""A recipe over several seeds: accuracy of each stage, k-means for comparison, time and memory of each stage.

    python benchmarks/seeds.py --recipe digits --seeds 0 1 2 3 4 [--root_dir results/seeds] [key=value ...]

key=value arguments go to all stages."""

import argparse
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
from benchmarks.table import Table
from benchmarks.timing import alone, peak_memory
from data import build_dataset
from utils.config import load_config
from utils.config.values import write_override
from utils.errors import UserError
from utils.evaluate.kmeans import kmeans_accuracy
from utils.mypath import written
from utils.report.log import read_results
from utils.run.command_line import command, given_path

STAGES = {"pretext": simclr, "scan": scan, "selflabel": selflabel}
SCRIPTS = {**STAGES, "eval": evaluation}
RESULTS = (
    "k-means, pixels",
    "k-means",
    "weighted kNN",
    "scan ACC",
    "scan NMI",
    "selflabel ACC",
    "selflabel NMI",
    "CPU minutes",
)
COSTS = ("minutes", "CPU minutes", "peak memory, GB", "peak GPU memory, GB")


def run_script(name: str, argv: list[str]) -> list[float]:
    """Run a script in this process; returns its COSTS without the wall time."""
    SCRIPTS[name].main(argv)
    sys.stdout.flush()
    gpu = [torch.cuda.max_memory_allocated() / 1e9] if torch.cuda.is_available() else []
    return [time.process_time() / 60, peak_memory(), *gpu]


def cost_of(name: str, argv: list[str]) -> list[float]:
    """COSTS of a script, its start and imports included."""
    begin = time.perf_counter()
    spent = alone(run_script, name, argv)
    return [(time.perf_counter() - begin) / 60, *spent]


def pixels_baseline(config: str, overrides: list[str]) -> float:
    """Val ACC of k-means on the pixels, fitted on the training images of the recipe."""
    cfg = load_config(None, config, overrides)
    train, val = build_dataset(cfg, "train"), build_dataset(cfg, "val")
    pixels = [dataset.images.flatten(1).float() / 255 for dataset in (train, val)]  # (N, 3 H W)
    return kmeans_accuracy(*pixels, val.targets, len(train.classes), cfg.seed)


def run_recipe(
    recipe: str, root_dir: Path, seed: int, overrides: list[str]
) -> tuple[list[float], list[list[float]]]:
    """RESULTS of a seed, and COSTS of each of SCRIPTS."""
    folder = root_dir / f"{recipe}-{seed}"
    if folder.exists():
        raise UserError(
            f"{folder} exists: a resumed run would count too little time, give another --root_dir"
        )
    place = [write_override("root_dir", root_dir), f"run_name={folder.name}"]
    overrides, costs = [*place, f"seed={seed}", *overrides], []
    for stage, script in STAGES.items():
        words = ["--config_exp", f"configs/{stage}/{script.__name__}_{recipe}.yml", *overrides]
        costs.append(cost_of(stage, words))
    costs.append(cost_of("eval", [*words, "--model", written(folder / stage / "model.pth.tar")]))
    results = {stage: read_results(folder / stage / "log.jsonl") for stage in STAGES}
    pretext = [results["pretext"][name] for name in RESULTS[1:3]]
    clusters = [results[stage][metric] for stage in ("scan", "selflabel") for metric in ("ACC", "NMI")]
    pixels = alone(pixels_baseline, words[1], overrides)  # apart: new processes inherit the peak of this one
    total = sum(minutes for _, minutes, *_ in costs)
    return [pixels, *pretext, *clusters, total], costs


def print_table(columns: tuple[str, ...], rows: dict[int | str, list]) -> None:
    print()
    table = Table(*columns)
    for name, cells in rows.items():
        table.row(name, *(cell if isinstance(cell, str) else f"{cell:.3f}" for cell in cells))


def print_tables(outcomes: dict[int, tuple[list[float], list[list[float]]]]) -> None:
    """The results of each seed, then the costs of each script as mean ± standard deviation."""
    results, costs = zip(*outcomes.values(), strict=True)
    rows = dict(zip(outcomes, results, strict=True))
    if len(outcomes) > 1:
        for name, statistic in (("mean", statistics.mean), ("std", statistics.stdev)):
            rows[name] = [statistic(column) for column in zip(*results, strict=True)]
    print_table(("seed", *RESULTS), rows)
    rows = {}
    for script, of_seeds in zip(SCRIPTS.values(), zip(*costs, strict=True), strict=True):
        columns = list(zip(*of_seeds, strict=True))
        spreads = [f" ± {statistics.stdev(column):.3f}" if len(column) > 1 else "" for column in columns]
        means = [f"{statistics.mean(column):.3f}" for column in columns]
        rows[f"{script.__name__}.py"] = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
    print_table(("stage", *COSTS[: len(columns)]), rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    recipes = "the end of the configs' names: digits, fashion_mnist_small, ..."
    parser.add_argument("--recipe", default="digits", help=recipes)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--root_dir", type=given_path, default=Path("results/seeds"))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args(argv)
    outcomes = {
        seed: run_recipe(arguments.recipe, arguments.root_dir, seed, arguments.overrides)
        for seed in arguments.seeds
    }
    print_tables(outcomes)


if __name__ == "__main__":
    command(main)
