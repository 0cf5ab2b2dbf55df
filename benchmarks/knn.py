"""Seconds, memory and recall of mining with several indexes, on made-up unit features in classes and sub-classes.

OMP_NUM_THREADS=1 python benchmarks/mining.py [--images 50000] [--dim 2048] [--indexes Flat IVF1024,Flat HNSW32]
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from utils import knn_index
from utils.neighbors import mine_neighbors, recall

CLASSES, SUB_CLASSES, NOISE = 1000, 5, 0.8  # of length 1: the centre that noise is added to
ROWS = 10_000  # made at once


def noisy(centres: Tensor, generator: torch.Generator) -> Tensor:
    """Unit vectors (B, D) round unit centres (B, D)."""
    return F.normalize(centres + NOISE * F.normalize(torch.randn(centres.shape, generator=generator), dim=1), dim=1)


def write_features(path: Path, images: int, dim: int) -> None:
    """A `.npy` file of float32 (N, D): cosine 0.61 within a sub-class, 0.37 within a class, about 0 elsewhere."""
    generator = torch.Generator().manual_seed(0)
    classes = F.normalize(torch.randn(CLASSES, dim, generator=generator), dim=1)
    centres = noisy(classes.repeat_interleave(SUB_CLASSES, dim=0), generator)
    features = np.lib.format.open_memmap(path, "w+", "float32", (images, dim))
    for start in range(0, images, ROWS):
        which = torch.randint(len(centres), (min(ROWS, images - start),), generator=generator)
        features[start : start + ROWS] = noisy(centres[which], generator).numpy()


def measure(path: Path, index: str, topk: int, backend: str) -> str:
    """A row of the table."""
    features = torch.from_numpy(np.load(path, mmap_mode="c"))  # (N, D)
    build_index, seconds = knn_index.build_index, [0.0]

    def timed(*arguments):
        start = time.perf_counter()
        built = build_index(*arguments)
        seconds[0] = time.perf_counter() - start
        return built

    knn_index.build_index = timed
    start = time.perf_counter()
    neighbors = mine_neighbors(features, topk, backend, index)
    search = time.perf_counter() - start - seconds[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB
    return f"| {index} | {seconds[0]:.1f} | {search:.1f} | {100 * recall(neighbors, features):.1f} % | {peak:.2f} |"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--topk", type=int, default=50)
    parser.add_argument("--indexes", nargs="+", default=["Flat", "IVF1024,Flat", "HNSW32"])
    parser.add_argument("--backend", choices=("auto", "faiss", "torch"), default="auto")
    arguments = parser.parse_args(argv)
    print("| index | build and train, s | search, s | of the exact neighbors | peak memory, GB |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    # A new process for each index: memory of one is not counted for the next, nor is that of making the features.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool, tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp, "features.npy")
        pool.apply(write_features, (path, arguments.images, arguments.dim))
        for index in arguments.indexes:
            print(pool.apply(measure, (path, index, arguments.topk, arguments.backend)), flush=True)


if __name__ == "__main__":
    main()
