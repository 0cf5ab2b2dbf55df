"""faiss, an optional library for neighbor search: exact (Flat) or approximate (IVFn,Flat and HNSWn)."""

import re
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from utils.arrays import evenly_spaced
from utils.console import say
from utils.distributed import rank, world_size
from utils.errors import UserError, attempt
from utils.neighbors.exact import of_all_processes

ROWS = 2**15  # of features, added at once from a GPU
QUERIES = 2**12  # searched for at once, as many as faiss takes for one product
FORMS = re.compile(r"Flat|IVF([1-9][0-9]{0,8}),Flat|HNSW([2-9]|[1-9][0-9]{1,2})")


@cache
def import_faiss() -> ModuleType | None:
    """faiss, or None if it is missing or broken; the console says once what is wrong with a broken one."""
    faiss, fault = attempt(_tried_faiss, "faiss")
    if fault:
        say(f"faiss does not work here, PyTorch searches in its place: {fault}")
    return faiss


def _tried_faiss() -> ModuleType:
    """faiss after a search, where a build for another NumPy fails."""
    import faiss

    rows, index = np.eye(2, dtype=np.float32), faiss.index_factory(2, "Flat", faiss.METRIC_INNER_PRODUCT)
    index.add(rows)
    index.search(rows, 1)
    return faiss


def faiss_has_gpu(faiss: ModuleType) -> bool:
    """Whether this build can search on a GPU. Builds older than 1.14.3 abort the process on recent GPUs."""
    version = tuple(int(number) for number in re.findall(r"\d+", getattr(faiss, "__version__", ""))[:3])
    is_fit = version >= (1, 14, 3) and hasattr(faiss, "StandardGpuResources")
    return is_fit and bool(attempt(lambda: faiss.get_num_gpus() > 0, "faiss")[0])


def check_index(index: str, num_images: int) -> None:
    """Raise UserError for an index that is not supported, or has more lists than images."""
    form = FORMS.fullmatch(index)
    if not form or int(form[1] or 0) > num_images:
        raise UserError(
            f"knn_index {index!r} does not fit {num_images} images: set it to Flat, IVFn,Flat (n lists, up "
            "to one an image) or HNSWn (n links, 2 to 999, such as HNSW32)"
        )


def build_index(features: Tensor, k: int, index: str):
    """A faiss index of all features, fp32 (N, D), for searches of k neighbors.

    IVFn,Flat: trained on evenly spaced rows, 64 for each list and at least 65,536; searches 1 in 32 lists, at
    least 8. HNSWn: keeps 2 k candidates during a search; always on the CPU. The others are on the GPU if the
    features are. Only graphs built by several threads differ from run to run."""
    faiss = import_faiss()
    built = faiss.index_factory(features.shape[1], index, faiss.METRIC_INNER_PRODUCT)
    if index.startswith("IVF"):
        built.nprobe = min(built.nlist, max(8, built.nlist // 32))
        rows = evenly_spaced(max(64 * built.nlist, 2**16), len(features))
    if index.startswith("HNSW"):
        built.hnsw.efSearch = 2 * k
    elif features.is_cuda and faiss_has_gpu(faiss):
        built = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), features.device.index, built)
    if not built.is_trained:
        built.train(features[rows].cpu().numpy())
    for part in features.split(ROWS if features.is_cuda else len(features)):  # on a CPU at once, not copied
        built.add(part.cpu().numpy())
    return built


def faiss_search(features: Tensor, k: int, index: str = "Flat") -> Tensor:
    """The k rows of largest inner product with each row of features (N, D), falling.

    Each process builds the index and searches for its share, whole blocks as in exact search. Returns int64
    (N, k), -1 where too few are found."""
    built, own = build_index(features, k, index), features.split(QUERIES)[rank() :: world_size()]
    found = [torch.from_numpy(built.search(part.cpu().numpy(), k)[1]) for part in own or (features[:0],)]
    return of_all_processes(found, len(features), QUERIES)
