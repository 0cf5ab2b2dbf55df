"""A recipe over several seeds: accuracy of each stage, k-means beside it, and the time and memory of each stage.

python benchmarks/seeds.py --recipe digits --seeds 0 1 2 3 4 [--root_dir results/seeds] [key=value of all stages ...]
"""

import argparse
import json
import resource
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
from benchmarks.timing import process_apart
from data import build_dataset
from utils.config import load_config
from utils.errors import UserError
from utils.evaluate.clustering import kmeans_accuracy
from utils.run.command_line import command

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


def alone(function, *arguments):
    """Call a function in a new process: memory of one stage is not counted for the next."""
    with process_apart(torch.get_num_threads()) as apart:
        return apart.apply(function, arguments)


def run_script(name: str, argv: list[str]) -> list[float]:
    """Run a script; returns what it cost this process by COSTS, without the wall time."""
    SCRIPTS[name].main(argv)
    sys.stdout.flush()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB
    gpu = [torch.cuda.max_memory_allocated() / 1e9] if torch.cuda.is_available() else []
    return [time.process_time() / 60, peak, *gpu]


def cost_of(name: str, argv: list[str]) -> list[float]:
    """COSTS of a script, start and imports included."""
    begin = time.perf_counter()
    spent = alone(run_script, name, argv)
    return [(time.perf_counter() - begin) / 60, *spent]


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


def run_recipe(
    recipe: str, root_dir: Path, seed: int, overrides: list[str]
) -> tuple[list[float], list[list[float]]]:
    """The RESULTS of a seed, and the COSTS of each of SCRIPTS."""
    folder = root_dir / f"{recipe}-{seed}"
    if folder.exists():
        raise UserError(f"{folder} exists: a restart would count too little time; name another --root_dir")
    overrides, costs = [f"root_dir={root_dir}", f"run_name={folder.name}", f"seed={seed}", *overrides], []
    for stage, script in STAGES.items():
        words = ["--config_exp", f"configs/{stage}/{script.__name__}_{recipe}.yml", *overrides]
        costs.append(cost_of(stage, words))
    costs.append(cost_of("eval", [*words, "--model", str(folder / stage / "model.pth.tar")]))
    results = finals(folder / "pretext")
    clusters = [
        finals(folder / stage)[metric] for stage in ("scan", "selflabel") for metric in ("ACC", "NMI")
    ]
    pixels = alone(
        pixels_baseline, words[1], overrides
    )  # not here: new processes inherit the peak of this one
    total = sum(minutes for _, minutes, *_ in costs)
    return [pixels, *(results[name] for name in RESULTS[1:3]), *clusters, total], costs


def print_table(columns: tuple[str, ...], rows: dict[int | str, list]) -> None:
    print("\n| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for name, cells in rows.items():
        print(
            f"| {name} | "
            + " | ".join(cell if isinstance(cell, str) else f"{cell:.3f}" for cell in cells)
            + " |"
        )


def print_tables(outcomes: dict[int, tuple[list[float], list[list[float]]]]) -> None:
    """Results of each seed; below them the costs of each script, as mean ± spread."""
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
        rows[f"{script.__name__}.py"] = [
            f"{statistics.mean(column):.3f}{spread}" for column, spread in zip(columns, spreads, strict=True)
        ]
    print_table(("stage", *COSTS[: len(columns)]), rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--recipe", default="digits", help="digits, fashion_mnist_small, ...: the end of the configs' names"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--root_dir", type=Path, default=Path("results/seeds"))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args(argv)
    outcomes = {
        seed: run_recipe(arguments.recipe, arguments.root_dir, seed, arguments.overrides)
        for seed in arguments.seeds
    }
    print_tables(outcomes)


if __name__ == "__main__":
    command(main)
