"""Nearest neighbors of features: mining, which SCAN starts from, and the weighted kNN that watches a pretext task."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError

CHUNK = 512  # rows of similarities held at once


def mine_neighbors(features: Tensor, topk: int, backend: str = "auto") -> Tensor:
    """The topk nearest neighbors of every image by inner product, exact.

    features: (N, D) fp32, used as they come: for cosine similarity the caller brings rows of unit length.
    backend: "torch" (where the features are), "faiss", or "auto". Auto takes faiss where it is installed; for features
    on a GPU only if faiss can search there.
    Returns int64 (N, topk + 1) on the CPU: column 0 is the image itself, however many twins it has, the others follow
    by falling similarity. Raises UserError for too few images, rows without a direction, or faiss asked for in vain.
    """
    features = features.detach().float()
    check_minable(len(features), topk, backend)
    check_features(features)
    return itself_first(SEARCHES[choose_backend(features, backend)](features, topk + 1))


def choose_backend(features: Tensor, backend: str) -> str:
    """`faiss` or `torch`: what `auto` stands for, for features where they are; the others stand for themselves."""
    if backend != "auto":
        return backend
    faiss = import_faiss()
    return "faiss" if faiss is not None and (not features.is_cuda or faiss_has_gpu(faiss)) else "torch"


def check_minable(num_images: int, topk: int, backend: str, split: str = "") -> None:
    """Raise UserError if mining is bound to fail: known before the training that it follows."""
    if num_images < topk + 1:
        images, fewer = f"{split} images".lstrip(), ", or lower num_neighbors" if split == "train" else ""
        raise UserError(
            f"{num_images} {images} are too few to mine {topk} neighbors each: at least {topk + 1} are needed; add "
            f"images{fewer}"
        )
    if backend == "faiss" and import_faiss() is None:
        raise UserError("knn_backend is faiss, which is not installed: install it, or set knn_backend to torch")


def check_features(features: Tensor) -> None:
    """Raise UserError unless every row has a direction."""
    norms = features.norm(dim=1)  # (N,)
    bad = (~(norms.isfinite() & (norms > 0))).nonzero().flatten().tolist()
    if bad:
        more = ", ..." if len(bad) > 5 else ""
        raise UserError(
            f"{len(bad)} of {len(features)} features are NaN, infinite or all zero (rows "
            f"{', '.join(map(str, bad[:5]))}{more}): such rows have no neighbors. Check the model and these images."
        )


def itself_first(candidates: Tensor) -> Tensor:
    """Move each row's own index to column 0. candidates: (N, T+1); where twins pushed it out, the last one goes."""
    itself = torch.arange(len(candidates))[:, None]  # (N, 1)
    left_out = candidates == itself  # (N, T+1), at most one True a row
    left_out[:, -1] |= ~left_out.any(dim=1)  # exactly one
    return torch.cat([itself, candidates[~left_out].view(len(candidates), -1)], dim=1)


def torch_search(features: Tensor, k: int) -> Tensor:
    """The k rows of largest inner product with each row, falling: int64 (N, k). Memory is linear in N."""
    nearest = torch.empty(len(features), k, dtype=torch.int64)
    buffer = features.new_empty(min(CHUNK, len(features)), len(features))  # (CHUNK, N), reused: half the time
    with full_precision_matmul():
        for start in range(0, len(features), CHUNK):
            rows = features[start : start + CHUNK]  # (C, D)
            similarity = torch.mm(rows, features.T, out=buffer[: len(rows)])  # (C, N)
            nearest[start : start + CHUNK] = similarity.topk(k, dim=1).indices
    return nearest


def faiss_search(features: Tensor, k: int) -> Tensor:
    """As torch_search, by faiss's flat index: on the GPU if the features are there and faiss can, else on the CPU."""
    faiss = import_faiss()
    index = faiss.IndexFlatIP(features.shape[1])
    if features.is_cuda and faiss_has_gpu(faiss):
        resources = faiss.StandardGpuResources()
        index = faiss.index_cpu_to_gpu(resources, features.device.index, index)
    vectors = features.cpu().numpy()
    index.add(vectors)
    return torch.from_numpy(index.search(vectors, k)[1])


SEARCHES = {"faiss": faiss_search, "torch": torch_search}


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


@contextmanager
def full_precision_matmul() -> Iterator[None]:
    """TF32 off for a while: rounded to its 10 bits, other neighbors would be found."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def weighted_knn(
    memory: Tensor, memory_targets: Tensor, queries: Tensor, num_classes: int, k: int = 100, temperature: float = 0.1
) -> Tensor:
    """Classify by the k nearest of a memory (Wu et al., arXiv:1805.01978, sec. 3.4).

    memory: (N, D) with int64 classes (N,), queries: (Q, D), both of unit length. Each of the k nearest rows votes for
    its class with exp(similarity / temperature); rows of target -1 do not vote; k is clipped to the rows that do.
    Returns the int64 (Q,) predicted classes. Raises ValueError if no row of the memory is labelled.
    """
    memory_targets = memory_targets.to(memory.device)
    memory, memory_targets = memory[memory_targets >= 0], memory_targets[memory_targets >= 0]
    if len(memory) == 0:
        raise ValueError("no row of the memory is labelled: kNN accuracy needs a labelled memory")
    predictions = []
    for rows in queries.split(CHUNK):
        similarity, nearest = (rows @ memory.T).float().topk(min(k, len(memory)), dim=1)  # (C, k) each
        # exp(similarity / temperature) up to a factor per query, which changes no vote and cannot overflow.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()  # (C, k)
        votes = weights.new_zeros(len(rows), num_classes).scatter_add(1, memory_targets[nearest], weights)  # (C, K)
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions)


def neighbors_to_bytes(neighbors: Tensor) -> bytes:
    """int64 (N, T+1) as the content of a `.npy` file, the published format."""
    file = io.BytesIO()
    np.save(file, neighbors.numpy())
    return file.getvalue()


def load_neighbors(path: Path, num_images: int, num_neighbors: int | None = None) -> Tensor:
    """Read a neighbor file (N, T+1); returns its first num_neighbors + 1 columns (all of them for None), int64.

    Raises UserError when the file was mined on another number of images or holds too few neighbors."""
    try:
        neighbors = np.lib.format.read_array(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except Exception as error:  # of NumPy or of Python's parser, by which bit is wrong
        raise UserError(f"{path} ({path.stat().st_size} bytes) is no readable .npy file: mine it again") from error
    if neighbors.ndim != 2 or len(neighbors) != num_images or not neighbors.size or neighbors.dtype.kind not in "iu":
        raise UserError(
            f"{path} holds {neighbors.dtype} {neighbors.shape}, but the split has {num_images} images: mine "
            "the neighbors again with simclr.py on this data set, with the max_images of this stage"
        )
    low, high = neighbors.min(), neighbors.max()
    if low < 0 or high >= num_images:
        raise UserError(
            f"{path} names image {low if low < 0 else high}, but the split's images are 0 to {num_images - 1}: mine "
            "the neighbors again with simclr.py on this data set"
        )
    mined = neighbors.shape[1] - 1
    if num_neighbors is not None and num_neighbors > mined:
        raise UserError(
            f"num_neighbors {num_neighbors} is more than the {mined} mined in {path}: set num_neighbors to at "
            f"most {mined}, or mine more with simclr.py num_neighbors={num_neighbors}"
        )
    return torch.from_numpy(neighbors[:, : num_neighbors + 1 if num_neighbors is not None else None].astype(np.int64))
