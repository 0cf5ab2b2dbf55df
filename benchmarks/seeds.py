"""The whole recipe on digits over several seeds: accuracy of each stage with mean and spread, and CPU minutes.

python benchmarks/seeds.py --seeds 0 1 2 3 4 [--root_dir results/seeds] [key=value of all three stages ...]
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import eval as evaluation
import scan
import selflabel
import simclr
from utils.errors import UserError
from utils.run import command

STAGES = {
    "pretext": (simclr.main, "configs/pretext/simclr_digits.yml"),
    "scan": (scan.main, "configs/scan/scan_digits.yml"),
    "selflabel": (selflabel.main, "configs/selflabel/selflabel_digits.yml"),
}
COLUMNS = ("weighted kNN", "k-means", "scan ACC", "scan NMI", "selflabel ACC", "selflabel NMI", "CPU minutes")


def finals(folder: Path) -> dict:
    """The results at the end of a stage's log, in one dict."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {name: value for line in lines if "final" in line for name, value in line.items()}


def run_recipe(root_dir: Path, seed: int, overrides: list[str]) -> list[float]:
    start = time.process_time()
    run_name = f"digits-{seed}"
    if (root_dir / run_name).exists():
        raise UserError(f"{root_dir / run_name} exists: a restart would count too little time; name another --root_dir")
    results = {}
    for stage, (main, config) in STAGES.items():
        main(["--config_exp", config, f"root_dir={root_dir}", f"run_name={run_name}", f"seed={seed}", *overrides])
        results[stage] = finals(root_dir / run_name / stage)
    evaluation.main(["--config_exp", config, "--model", str(root_dir / run_name / stage / "model.pth.tar")])
    minutes = (time.process_time() - start) / 60
    pretext = [results["pretext"][name] for name in COLUMNS[:2]]
    clusters = [results[stage][metric] for stage in ("scan", "selflabel") for metric in ("ACC", "NMI")]
    return [*pretext, *clusters, minutes]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--root_dir", type=Path, default=Path("results/seeds"))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args(argv)
    rows = {seed: run_recipe(arguments.root_dir, seed, arguments.overrides) for seed in arguments.seeds}
    print("| seed | " + " | ".join(COLUMNS) + " |\n|" + " --- |" * (len(COLUMNS) + 1))
    for seed, row in rows.items():
        print(f"| {seed} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
    if len(rows) > 1:
        for name, statistic in (("mean", statistics.mean), ("std", statistics.stdev)):
            values = (statistic(column) for column in zip(*rows.values(), strict=True))
            print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |")


if __name__ == "__main__":
    command(main)
