"""How long a folder of pictures takes to open: the first start, which decodes every file, and those after it.

    python benchmarks/folder.py [--workers 1]

Fashion-MNIST's 10,000 test images as PNG files of 32 x 32 px, in the file cache of the system. Median of five first
and fifteen later starts, with the lowest and highest."""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from data import build_dataset
from data.datasets.fashion_mnist import read_fashion_mnist
from utils.config import load_config
from utils.mypath import MyPath

FIRST, LATER = 5, 3


def seconds(cfg) -> float:
    start = time.perf_counter()
    build_dataset(cfg, "train")
    return time.perf_counter() - start


def described(times: list[float], files: int) -> str:
    median = statistics.median(times)
    return f"{median:.2f} s ({min(times):.2f} to {max(times):.2f}), {files / median:,.0f} files/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=1, help="files read at once (num_workers)")
    workers = parser.parse_args().workers
    with tempfile.TemporaryDirectory() as place:
        folder, first, later = Path(place, "pictures"), [], []
        folder.mkdir()
        dataset = read_fashion_mnist("val", Path(MyPath.db_root_dir("fashion-mnist")))
        for row in range(len(dataset)):
            dataset.get_image(row).convert("L").save(folder / f"{row:05d}.png")
        for run in range(FIRST):
            own = [
                "train_db_name=folder",
                "val_db_name=folder",
                f"folder.path={folder}",
                f"num_workers={workers}",
            ]
            own += [f"root_dir={place}/results-{run}"]
            cfg = load_config(None, "configs/pretext/simclr_fashion_mnist_small.yml", own)
            first.append(seconds(cfg))
            later += [seconds(cfg) for _ in range(LATER)]
    print(f"first start: {described(first, len(dataset))}\nlater starts: {described(later, len(dataset))}")


if __name__ == "__main__":
    main()
