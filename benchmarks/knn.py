"""Neighbor search: faiss against PyTorch, and the approximate indexes of faiss.

    OMP_NUM_THREADS=1 python benchmarks/knn.py [--rounds 3] [--images 50000 --dim 128] [--topk 20]
    python benchmarks/knn.py --device cuda --images 1281167 --dim 2048 --topk 50
    OMP_NUM_THREADS=1 python benchmarks/knn.py --images 50000 --dim 2048 --topk 50 \\
        --indexes Flat IVF1024,Flat HNSW32
    OMP_NUM_THREADS=1 python benchmarks/knn.py --images 1000000 --dim 128 --queries 4096

The features are made up: unit vectors in classes and sub-classes. On a CPU, faiss and PyTorch take turns in
one process, each on one thread. Process time, medians over the rounds, and the ratios with lowest and
highest. Without faiss only PyTorch is measured. On a GPU there is one search, in wall time, with its peak
memory and its share of an H100's arithmetic limit. With --indexes: wall seconds, the memory of a separate
process, and how many of the exact neighbors an index finds. With --queries: only so many evenly spaced images
are searched for, in all of them; and the peak memory of mining all, beside their features, where the results
of these few stand for those of the others."""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.table import Table, against, parser, ratio, save
from benchmarks.timing import alone, in_turns, peak_memory, prepare, seconds
from utils.arrays import evenly_spaced
from utils.neighbors import exact
from utils.neighbors import faiss_index as knn_index
from utils.neighbors.faiss_index import import_faiss
from utils.neighbors.search import check_features, mine_neighbors, recall
from utils.storage.arrays import to_npy

SIZES = [(10_000, 128), (50_000, 128), (10_000, 2048)]  # images, and numbers per image
BAR = 0.45  # how many times as fast as faiss PyTorch has to be
CLASSES, SUB_CLASSES = 1000, 5
NOISE = 0.8  # length of the noise on a centre of length 1
ROWS = 10_000  # made at once
COLUMNS = (
    "images x dim",
    "PyTorch, times as fast as faiss",
    "bar",
    "faiss, s",
    "PyTorch, s",
    "equal neighbors, %",
)
SAMPLE_COLUMNS = ("images x dim", "queries", "PyTorch, times as fast as faiss", "faiss, s", "PyTorch, s")
SAMPLE_COLUMNS += ("equal neighbors, %", "peak memory beside the features, GB")
GPU_COLUMNS = ("images x dim", "of the limit, %", "limit, s", "measured, s", "right, %")
GPU_COLUMNS += ("features, GiB", "peak GPU memory, GiB")
TERAFLOPS = 67  # of an H100 in fp32 without TF32, from its data sheet


def noisy(centres: Tensor, generator: torch.Generator) -> Tensor:
    """Unit vectors (B, D) around unit centres (B, D)."""
    noise = torch.randn(centres.shape, generator=generator, device=centres.device)
    return F.normalize(centres + NOISE * F.normalize(noise, dim=1), dim=1)


def fill(features: Tensor | np.ndarray, device: str | torch.device = "cpu") -> None:
    """Write float32 (N, D), made on the device. The cosine is 0.61 within a sub-class, 0.37 within a class,
    else about 0."""
    images, dim = features.shape
    generator = torch.Generator(device).manual_seed(0)
    classes = F.normalize(torch.randn(CLASSES, dim, generator=generator, device=device), dim=1)
    centres = noisy(classes.repeat_interleave(SUB_CLASSES, dim=0), generator)
    for start in range(0, images, ROWS):
        shape = (min(ROWS, images - start),)
        which = torch.randint(len(centres), shape, generator=generator, device=device)
        features[start : start + ROWS] = noisy(centres[which], generator)


def make_features(images: int, dim: int, device: str | torch.device = "cpu") -> Tensor:
    features = torch.empty(images, dim, device=device)
    fill(features, device)
    return features


def search(images: int, dim: int, topk: int, rounds: int, table: Table) -> None:
    """Add a row: exact search on the CPU by faiss and by PyTorch."""
    features, found = make_features(images, dim), {}

    def mine(backend: str) -> float:
        return seconds(lambda: found.update({backend: mine_neighbors(features, topk, backend)}))

    backends = ["faiss", "torch"] if import_faiss() else ["torch"]
    times = in_turns({backend: lambda name=backend: mine(name) for backend in backends}, rounds)
    faster = bar = slow = equal = None
    if "faiss" in times:
        faster, slow = ratio(times["faiss"], times["torch"]), statistics.median(times["faiss"])
        bar = against(BAR, faster.median)
        equal = 100 * (found["faiss"] == found["torch"])[:, 1:].double().mean().item()
    table.row(f"{images:,} x {dim}", faster, bar, slow, statistics.median(times["torch"]), equal)


def search_on_gpu(images: int, dim: int, topk: int, device: torch.device, table: Table) -> None:
    """Add a row: PyTorch's exact search on the GPU, once, against the time that its products need at
    least."""
    features = make_features(images, dim, device)
    mine_neighbors(features[: ROWS // 2], topk, "torch")  # to warm up
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    neighbors = mine_neighbors(features, topk, "torch")
    spent = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() / 2**30
    bound = 2 * images**2 * dim / (TERAFLOPS * 1e12)
    right = 100 * share_of_nearest(features, neighbors)
    table.row(f"{images:,} x {dim}", 100 * bound / spent, bound, spent, right, features.nbytes / 2**30, peak)


def share_of_nearest(features: Tensor, neighbors: Tensor, sample: int = 100) -> float:
    """The share of neighbors, of a sample of images, that are as near as the k-th nearest in float64."""
    rows = torch.linspace(0, len(features) - 1, sample).long()
    parts = [features[rows].double() @ part.double().T for part in features.split(ROWS)]
    similarity = torch.cat(parts, dim=1)  # (S, N)
    similarity[torch.arange(sample), rows] = -torch.inf  # the image itself
    others = neighbors[rows, 1:].to(features.device)  # (S, T)
    least = similarity.topk(others.shape[1], dim=1).values[:, -1:] - 1e-6  # rounding of fp32
    return (similarity.gather(1, others) >= least).double().mean().item()


def write_features(path: Path, images: int, dim: int) -> None:
    fill(np.lib.format.open_memmap(path, "w+", "float32", (images, dim)))


def measure_index(path: Path, index: str, topk: int) -> tuple:
    """A row of the table of indexes."""
    features = torch.from_numpy(np.load(path, mmap_mode="c"))  # (N, D)
    build_index, built_in = knn_index.build_index, [0.0]

    def timed(*arguments):
        start = time.perf_counter()
        built = build_index(*arguments)
        built_in[0] = time.perf_counter() - start
        return built

    knn_index.build_index = timed
    start = time.perf_counter()
    neighbors = mine_neighbors(features, topk, index=index)
    searched_in = time.perf_counter() - start - built_in[0]
    return index, 100 * recall(neighbors, features), built_in[0], searched_in, peak_memory()


def compare_indexes(indexes: list[str], images: int, dim: int, topk: int) -> Table:
    table = Table("index", "exact neighbors found, %", "build and train, s", "search, s", "peak memory, GB")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "features.npy")
        alone(write_features, path, images, dim)
        for index in indexes:
            table.row(*alone(measure_index, path, index, topk))
    return table


def memory_of_mining(path: Path, topk: int, queries: int) -> float:
    """Peak GB beside the features. The search for `queries` images stands for that for all."""
    features = torch.from_numpy(np.load(path))
    check_features(features)
    before, search_blocks = peak_memory(), exact.nearest_by_blocks

    def repeated(images, rows, *rest):
        found = list(search_blocks(images, evenly_spaced(queries, len(rows)), *rest))
        for number, block in enumerate(rows.split(exact.ROWS)):
            _, *values = found[number % len(found)]
            yield block, *(each[: len(block)] for each in values)

    exact.nearest_by_blocks = repeated
    to_npy(mine_neighbors(features, topk, "torch"))
    return peak_memory() - before


def search_for_some(images: int, dim: int, topk: int, queries: int, rounds: int) -> Table:
    """Exact search for some of many images by faiss and by PyTorch, in turns, and the memory of mining."""
    table, found = Table(*SAMPLE_COLUMNS), {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "features.npy")
        alone(write_features, path, images, dim)
        memory = alone(memory_of_mining, path, topk, queries)
        features = torch.from_numpy(np.load(path))
    rows, built = evenly_spaced(queries, images), knn_index.build_index(features, topk + 1, "Flat")
    searches = {
        "faiss": lambda: torch.from_numpy(built.search(features[rows].numpy(), topk + 1)[1]),
        "torch": lambda: exact.exact_neighbors(features, topk, rows),
    }

    def timed(name: str) -> float:
        return seconds(lambda: found.update({name: searches[name]()}))

    times = in_turns({name: lambda name=name: timed(name) for name in searches}, rounds)
    faster = ratio(times["faiss"], times["torch"])
    equal = 100 * (exact.itself_first(found["faiss"], rows) == found["torch"])[:, 1:].double().mean().item()
    medians = [statistics.median(times[name]) for name in searches]
    table.row(f"{images:,} x {dim}", queries, faster, *medians, equal, memory)
    return table


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__, device=True)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--images", type=int, help="with --dim, instead of three sizes")
    options.add_argument("--dim", type=int)
    options.add_argument("--topk", type=int, default=20)
    options.add_argument(
        "--indexes", nargs="+", help="indexes of faiss to compare, instead of the other table"
    )
    options.add_argument("--queries", type=int, help="search for so many images only, a multiple of 512")
    arguments = options.parse_args(argv)
    if bool(arguments.images) != bool(arguments.dim):
        options.error("--images and --dim go together")
    device = prepare(arguments.device)
    sizes = [(arguments.images, arguments.dim)] if arguments.images and arguments.dim else SIZES
    if arguments.indexes:
        save(arguments.json, compare_indexes(arguments.indexes, *sizes[0], arguments.topk))
        return
    if arguments.queries:
        how = arguments.topk, arguments.queries, arguments.rounds
        save(arguments.json, search_for_some(*sizes[0], *how))
        return
    on_cpu = device.type == "cpu"
    table = Table(*(COLUMNS if on_cpu else GPU_COLUMNS))
    for size in sizes:
        if on_cpu:
            search(*size, arguments.topk, arguments.rounds, table)
        else:
            search_on_gpu(*size, arguments.topk, device, table)
    save(arguments.json, table)


if __name__ == "__main__":
    main()
