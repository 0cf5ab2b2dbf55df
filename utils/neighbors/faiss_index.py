"""faiss: what this installation can do, and searching with any index that its factory builds."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType

import torch
from torch import Tensor

from utils.arrays import evenly_spaced
from utils.errors import UserError

ROWS = 2**15  # of features, handed to faiss at once
TRAINING_ROWS = 64  # for each list of an index; at ImageNet's size 256 would copy most of the features


def import_faiss() -> ModuleType | None:
    try:
        import faiss
    except ImportError:
        return None
    return faiss


def faiss_has_gpu(faiss: ModuleType) -> bool:
    """Whether this build has kernels and a GPU to run them. CPU builds show the functions all the same, and older or
    unofficial builds lack code for recent GPUs and abort the process."""
    version = tuple(int(number) for number in re.findall(r"\d+", faiss.__version__)[:3])
    return version >= (1, 14, 3) and hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def faiss_search(features: Tensor, k: int, index: str = "Flat") -> Tensor:
    """The k rows of largest inner product with each row, as far as the index finds them: int64 (N, k), falling.

    features: fp32 (N, D); none of them is copied on the CPU but by the index, and for training. What is missing from
    a row is -1. Raises UserError where the index serves neither N images nor features of size D."""
    with reasons_of_faiss(index, len(features)):
        return search_index(build_index(features, k, index), features, k)


def build_index(features: Tensor, k: int, index: str):
    """The faiss index of a factory string, trained on evenly spaced rows and holding all features (N, D).

    It will search 1 in 32 lists (IVF), at least 8 (nprobe), keep 2 k candidates of a graph (HNSW, efSearch), and rank
    4 k candidates once more where it refines (RFlat). Of features on a GPU, Flat and IVF..,Flat are kept there, the
    others on the CPU. Training draws by a fixed seed; only graphs built by several threads differ from run to run."""
    faiss = import_faiss()
    built = empty_index(index, *features.shape)
    lists = max(lists_of(index), default=0)
    for setting, value in (
        ("nprobe", min(lists, max(8, lists // 32))),
        ("efSearch", 2 * k),
        ("k_factor_rf", 4),
    ):
        with suppress(RuntimeError):  # of an index that has no such setting
            faiss.ParameterSpace().set_index_parameter(built, setting, value)
    if features.is_cuda and faiss_has_gpu(faiss) and re.fullmatch(r"(IVF\d+[kM]?,)?Flat", index):
        built = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), features.device.index, built)
    # Added in parts, a list of vectors would grow by copies; added at once, a transform (OPQ, PCA) would copy them all.
    at_once = not features.is_cuda and isinstance(built, faiss.IndexFlat | faiss.IndexHNSW)
    if not built.is_trained:
        rows = evenly_spaced(
            max(TRAINING_ROWS * lists, 2**16), len(features)
        )  # 256 for each of PQ's 256 centroids
        built.train(features[rows].cpu().numpy())
    for rows in features.split(len(features) if at_once else ROWS):
        built.add(rows.cpu().numpy())
    return built


def search_index(built, features: Tensor, k: int) -> Tensor:
    """The k rows nearest to each row of features (N, D), int64 (N, k), -1 where the index finds fewer."""
    return torch.cat(
        [torch.from_numpy(built.search(rows.cpu().numpy(), k)[1]) for rows in features.split(ROWS)]
    )


def empty_index(index: str, num_images: int, dim: int):
    """The faiss index of a factory string. Raises UserError if faiss cannot build it for features of size `dim`, or if
    it has more lists than images."""
    for lists in lists_of(index):
        if not 1 <= lists <= num_images:
            raise misfit(index, num_images, f"it has {lists} lists for {num_images} images")
    for graph, links in re.findall(r"(HNSW|NSG)(\d+)", index):
        if not 2 <= int(links) <= 1024:  # fewer crash faiss or never end, more take its memory
            raise misfit(index, num_images, f"{graph} takes 2 to 1024 links, not {links}")
    if re.search(r"x0(?!\d)", index):  # crashes faiss
        raise misfit(index, num_images, "its codes have 0 bits")
    faiss = import_faiss()
    with reasons_of_faiss(index, num_images):
        return faiss.index_factory(dim, index, faiss.METRIC_INNER_PRODUCT)


def lists_of(index: str) -> list[int]:
    """The numbers of lists in a factory string: [4096] of `IVF4096,Flat`, [1024] of `IVF1k,Flat`, [] of `HNSW32`."""
    sizes = {"": 1, "k": 2**10, "M": 2**20}
    return [int(number) * sizes[unit] for number, unit in re.findall(r"IVF(\d+)([kM]?)", index)]


def misfit(index: str, num_images: int, reason: str) -> UserError:
    example = f"IVF{max(1, round(num_images**0.5))},Flat"  # about as many lists as images in a list
    return UserError(
        f"knn_index {index!r} does not serve: {reason}; set it to Flat, or for example {example} or HNSW32"
    )


@contextmanager
def reasons_of_faiss(index: str, num_images: int) -> Iterator[None]:
    """Errors of faiss about an index other than Flat as UserError in one line, without its files and functions."""
    try:
        yield
    except RuntimeError as error:
        if index == "Flat":
            raise
        reason = " ".join(str(error).rsplit(": ", 1)[-1].split())
        raise misfit(index, num_images, f"faiss says {reason!r}") from error
