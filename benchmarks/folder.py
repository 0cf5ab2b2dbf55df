"""Time to open a folder of images: the first start, which decodes every file, and later starts.

    python benchmarks/folder.py [--workers 1]

Fashion-MNIST's 10,000 test images as PNG files of 32 x 32 px, in the file cache of the system. Wall time,
median of five first and fifteen later starts, with lowest and highest."""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.table import Table, parser, save, spread
from data import build_dataset
from data.datasets.fashion_mnist import read_fashion_mnist
from utils.config import load_config
from utils.mypath import MyPath

FIRST, LATER = 5, 3  # first starts, and later starts after each of them


def seconds(cfg) -> float:
    start = time.perf_counter()
    build_dataset(cfg, "train")
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--workers", type=int, default=1, help="files read at once (num_workers)")
    arguments = options.parse_args(argv)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "images")
        folder.mkdir()
        dataset = read_fashion_mnist("val", Path(MyPath.db_root_dir("fashion-mnist")))
        for row in range(len(dataset)):
            dataset.get_image(row).convert("L").save(folder / f"{row:05d}.png")
        times = {"first start": [], "later starts": []}
        overrides = ["train_db_name=folder", "val_db_name=folder", f"folder.path={folder}"]
        overrides += [f"num_workers={arguments.workers}"]
        for run in range(FIRST):
            root_dir = f"root_dir={place}/results-{run}"
            cfg = load_config(None, "configs/pretext/simclr_fashion_mnist_small.yml", [*overrides, root_dir])
            times["first start"].append(seconds(cfg))
            times["later starts"] += [seconds(cfg) for _ in range(LATER)]
    table = Table("workers, start", "seconds", "files/s")
    for name, values in times.items():
        found = spread(values)
        table.row(f"{arguments.workers}, {name}", found, len(dataset) / found.median)
    save(arguments.json, table)


if __name__ == "__main__":
    main()
