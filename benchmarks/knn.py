"""Searching neighbors: faiss against PyTorch, weighted kNN against its plain form, and other indexes of faiss.

    OMP_NUM_THREADS=1 python benchmarks/knn.py [--rounds 3] [--images 50000 --dim 128] [--topk 20]
    python benchmarks/knn.py --device cuda --images 1281167 --dim 2048 --topk 50
    OMP_NUM_THREADS=1 python benchmarks/knn.py --images 50000 --dim 2048 --topk 50 --indexes Flat IVF1024,Flat HNSW32

Made-up unit features in classes and sub-classes. The forms take turns in one process; process time, on a GPU wall time;
medians over the rounds, and of the ratios the lowest and the highest. faiss searches on the CPU, on one thread as
PyTorch does there; where it is not installed PyTorch's search stands alone. On a GPU one search, with its peak memory
and what share of the arithmetic limit of an H100 it reaches. With --indexes the one table is that of the indexes: wall
seconds, the memory of a process of its own, and how many of the exact neighbors an index finds."""

import multiprocessing
import resource
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
from benchmarks.timing import in_turns, seconds
from utils.device import choose_device
from utils.neighbors import faiss_index as knn_index
from utils.neighbors.faiss_index import import_faiss
from utils.neighbors.search import mine_neighbors, recall, weighted_knn

SIZES = [(10_000, 128), (50_000, 128), (10_000, 2048)]  # images, and numbers in a feature
BAR = 0.45  # of PyTorch against faiss, exact both
CLASSES, SUB_CLASSES, NOISE = 1000, 5, 0.8  # of length 1: the centre that noise is added to
ROWS = 10_000  # made at once
QUERIES, MEMORY, DIM = 512, 50_000, 128  # of the weighted kNN
COLUMNS = (
    "images x dim",
    "PyTorch, times as fast as faiss",
    "bar",
    "faiss, s",
    "PyTorch, s",
    "equal neighbors, %",
)
GPU_COLUMNS = ("images x dim", "of the limit, %", "limit, s", "measured, s", "right, %")
GPU_COLUMNS += ("features, GiB", "peak GPU memory, GiB")
VOTE_COLUMNS = (
    "weighted kNN, classes",
    "times as fast as all votes at once",
    "all votes, ms",
    "ours, ms",
    "equal, %",
)
TERAFLOPS = 67  # of an H100 in fp32 without TF32, by its data sheet


def noisy(centres: Tensor, generator: torch.Generator) -> Tensor:
    """Unit vectors (B, D) round unit centres (B, D)."""
    noise = torch.randn(centres.shape, generator=generator, device=centres.device)
    return F.normalize(centres + NOISE * F.normalize(noise, dim=1), dim=1)


def fill(features: Tensor | np.ndarray, device: str | torch.device = "cpu") -> None:
    """Write float32 (N, D), made on the device: cosine 0.61 within a sub-class, 0.37 within a class, about 0
    elsewhere."""
    images, dim = features.shape
    generator = torch.Generator(device).manual_seed(0)
    classes = F.normalize(torch.randn(CLASSES, dim, generator=generator, device=device), dim=1)
    centres = noisy(classes.repeat_interleave(SUB_CLASSES, dim=0), generator)
    for start in range(0, images, ROWS):
        shape = (min(ROWS, images - start),)
        which = torch.randint(len(centres), shape, generator=generator, device=device)
        features[start : start + ROWS] = noisy(centres[which], generator)


def make_features(images: int, dim: int, device: str | torch.device = "cpu") -> Tensor:
    """float32 (N, D) on the device."""
    features = torch.empty(images, dim, device=device)
    fill(features, device)
    return features


def search(images: int, dim: int, topk: int, rounds: int, table: Table) -> None:
    """A row of exact search on the CPU by faiss and by PyTorch."""
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
    """A row of PyTorch's exact search where the features are, once, against the arithmetic of its products."""
    features = make_features(images, dim, device)
    mine_neighbors(features[: ROWS // 2], topk, "torch")  # to warm up
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    neighbors = mine_neighbors(features, topk, "torch")  # they come to the CPU
    spent = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() / 2**30
    bound = 2 * images**2 * dim / (TERAFLOPS * 1e12)
    right = 100 * share_of_nearest(features, neighbors)
    table.row(f"{images:,} x {dim}", 100 * bound / spent, bound, spent, right, features.nbytes / 2**30, peak)


def share_of_nearest(features: Tensor, neighbors: Tensor, sample: int = 100) -> float:
    """How many of the neighbors of some images are as near, by products in float64, as the k-th nearest."""
    rows = torch.linspace(0, len(features) - 1, sample).long()
    similarity = torch.cat(
        [features[rows].double() @ part.double().T for part in features.split(ROWS)], dim=1
    )  # (S, N)
    similarity[torch.arange(sample), rows] = -torch.inf  # the image itself
    others = neighbors[rows, 1:].to(features.device)  # (S, T)
    least = similarity.topk(others.shape[1], dim=1).values[:, -1:] - 1e-6  # of fp32
    return (similarity.gather(1, others) >= least).double().mean().item()


def one_hot_knn(memory: Tensor, targets: Tensor, queries: Tensor, num_classes: int) -> Tensor:
    """`weighted_knn` as its equation is written: the votes of all neighbors for all classes, then their sum."""
    similarity, nearest = (queries @ memory.T).topk(100, dim=1)  # (Q, k) each
    votes = F.one_hot(targets[nearest], num_classes) * (similarity / 0.1).exp()[..., None]  # (Q, k, C)
    return votes.sum(dim=1).argmax(dim=1)


def weighted(classes: int, features: Tensor, rounds: int, table: Table) -> None:
    """A row of the weighted kNN: all features but the last 512 are the memory, these the queries."""
    memory, queries = features[:-QUERIES], features[-QUERIES:]
    targets, found = torch.arange(len(memory), device=features.device) % classes, {}

    def vote(form) -> float:
        return 1000 * seconds(
            lambda: found.update({form: form(memory, targets, queries, classes)}), features.device
        )

    times = in_turns({form: lambda form=form: vote(form) for form in (one_hot_knn, weighted_knn)}, rounds)
    equal = 100 * (found[one_hot_knn] == found[weighted_knn]).double().mean().item()
    table.row(classes, ratio(*times.values()), *map(statistics.median, times.values()), equal)


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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB
    return index, 100 * recall(neighbors, features), built_in[0], searched_in, peak


def compare_indexes(indexes: list[str], images: int, dim: int, topk: int) -> Table:
    table = Table("index", "of the exact neighbors, %", "build and train, s", "search, s", "peak memory, GB")
    # A new process for each index: memory of one is not counted for the next, nor is that of making the features.
    with (
        multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool,
        tempfile.TemporaryDirectory() as tmp,
    ):
        path = Path(tmp, "features.npy")
        pool.apply(write_features, (path, images, dim))
        for index in indexes:
            table.row(*pool.apply(measure_index, (path, index, topk)))
    return table


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__, device=True)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--images", type=int, help="with --dim, in place of three sizes")
    options.add_argument("--dim", type=int)
    options.add_argument("--topk", type=int, default=20)
    options.add_argument("--indexes", nargs="+", help="of faiss's factory, in place of the other tables")
    arguments = options.parse_args(argv)
    if bool(arguments.images) != bool(arguments.dim):
        options.error("--images and --dim go together")
    torch.set_num_threads(1)
    device = choose_device(arguments.device)
    sizes = [(arguments.images, arguments.dim)] if arguments.images and arguments.dim else SIZES
    if arguments.indexes:
        save(arguments.json, compare_indexes(arguments.indexes, *sizes[0], arguments.topk))
        return
    tables = [Table(*(COLUMNS if device.type == "cpu" else GPU_COLUMNS))]
    for size in sizes:
        if device.type == "cpu":
            search(*size, arguments.topk, arguments.rounds, tables[0])
        else:
            search_on_gpu(*size, arguments.topk, device, tables[0])
    if sizes is SIZES:
        print()
        tables.append(Table(*VOTE_COLUMNS))
        features = make_features(MEMORY + QUERIES, DIM, device)
        for classes in (10, 100, 1000):
            weighted(classes, features, arguments.rounds, tables[1])
    save(arguments.json, *tables)


if __name__ == "__main__":
    main()
