"""Nearest neighbors of features: mining, which SCAN starts from, and the kNN that monitors a pretext task."""

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.arrays import evenly_spaced, share
from utils.distributed import on_main
from utils.errors import UserError
from utils.neighbors.exact import ROWS, exact_neighbors, itself_first, nearest_by_blocks, of_all_processes
from utils.neighbors.faiss_index import check_index, faiss_has_gpu, faiss_search, import_faiss

VAL_NEIGHBORS = 5  # mined within the val split; SCAN's validation uses all of them


def mine_neighbors(
    features: Tensor,
    topk: int,
    backend: str = "auto",
    index: str = "Flat",
    device: torch.device | None = None,
) -> Tensor:
    """The topk nearest neighbors of every image by inner product, in fp32 even under autocast.

    features: (N, D), used as given: rows of unit length give the cosine similarity.
    backend: torch, faiss or auto (see `choose_backend`). index: Flat, which is exact, or the approximate
    IVFn,Flat and HNSWn (see `build_index`); where such an index finds too few, the search is exact.
    device: where PyTorch searches, if the features do not fit there; else it is theirs.
    Returns int64 (N, topk + 1) on the CPU: column 0 is the image itself, even among exact duplicates, the
    others follow by falling similarity. Raises UserError as `check_minable` and `check_features` do."""
    features = features.detach().float()  # no copy of fp32, which may be memory-mapped
    check_minable(len(features), topk, backend, index=index)
    check_features(features)
    images = torch.arange(len(features))
    device = device or features.device
    if choose_backend(features, backend, index, device) == "torch":
        return exact_neighbors(features, topk, images, device)
    candidates = faiss_search(features, topk + 1, index)  # (N, T+1)
    neighbors = itself_first(candidates, images)
    incomplete = (candidates < 0).any(dim=1).nonzero().flatten()
    if len(incomplete):
        neighbors[incomplete] = exact_neighbors(features, topk, incomplete, device)
    return neighbors


def recall(
    neighbors: Tensor, features: Tensor, sample: int = 1000, device: torch.device | None = None
) -> float:
    """Share of the exact nearest neighbors among those found, of at most `sample` images, evenly spaced.

    neighbors: int64 (N, T+1), column 0, the image itself, left out; features: (N, D) fp32."""
    rows = evenly_spaced(sample, len(features))  # (S,)
    exact = exact_neighbors(features, neighbors.shape[1] - 1, rows, device)[:, 1:]  # (S, T)
    return share((exact[:, :, None] == neighbors[rows, None, 1:]).any(dim=2))


@on_main  # all processes have to search in the same way
def choose_backend(features: Tensor, backend: str, index: str = "Flat", device=None) -> str:
    """`auto` is faiss where it can search on the features' device or `index` needs it, else torch. It is also
    torch where the features do not fit the device."""
    if backend != "auto":
        return backend
    faiss, fits = import_faiss(), device is None or device.type == features.device.type
    usable = fits and faiss is not None and (not features.is_cuda or faiss_has_gpu(faiss))
    return "faiss" if usable or index != "Flat" else "torch"


def check_minable(num_images: int, topk: int, backend: str, split="train", index="Flat") -> None:
    """Raise UserError for too few images, an unsupported index, or faiss needed but missing."""
    if num_images <= topk:
        remedy = "lower num_neighbors" if split == "train" else "raise folder.val_share"
        raise UserError(
            f"{num_images} {split} images are too few to mine {topk} neighbors each: add images (at least "
            f"{topk + 1} are needed), or {remedy}"
        )
    check_index(index, num_images)
    has_faiss = backend != "torch" and import_faiss() is not None  # a broken one is found before training
    if (index != "Flat" or backend == "faiss") and not has_faiss:
        raise UserError(
            f"knn_index {index!r} with knn_backend {backend} needs faiss, which is missing, broken or not "
            "chosen: install it and set knn_backend=auto, or set knn_index=Flat knn_backend=torch"
        )


def check_features(features: Tensor) -> None:
    """Raise UserError for rows of features (N, D) without neighbors: NaN, infinite or zero-norm."""
    norms = torch.cat([rows.norm(dim=1) for rows in features.split(ROWS)])  # (N,)
    bad = (~norms.isfinite() | (norms == 0)).nonzero().flatten().tolist()
    if bad:
        found = f"{len(bad)} of {len(features)} features are NaN, infinite or all zero"
        rows = ", ".join(map(str, bad[:5]))
        remedy = "lower optimizer_kwargs.lr and train again (--restart), or check the model and these images"
        raise UserError(f"{found}, such as rows {rows}, and have no neighbors: {remedy}")


def weighted_knn(
    memory: Tensor,
    memory_targets: Tensor,
    queries: Tensor,
    num_classes: int,
    k=100,
    temperature=0.1,
    device: torch.device | None = None,
) -> Tensor:
    """Classify by the k nearest of a memory (Wu et al., arXiv:1805.01978, sec. 3.4): int64 (Q,) on the CPU.

    memory: (N, D) fp32 with int64 classes (N,), queries: (Q, D), both of unit length. Each of the k nearest
    rows votes for its class with exp(similarity / temperature); rows of target -1 do not vote. Searched on
    `device`, which is the memory's if it is not given."""
    device = device or memory.device
    memory_targets = memory_targets.to(device)
    unlabelled = memory_targets < 0  # (N,)
    num_voters = len(memory) - int(unlabelled.sum())
    if num_voters == 0:
        raise ValueError("no row of the memory is labelled")
    k, rows, predictions = min(k, num_voters), torch.arange(len(queries)), []
    for _, similarity, nearest in nearest_by_blocks(queries, rows, memory, k, device, unlabelled):
        # Shifted by the largest similarity, which changes no vote and cannot overflow.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()  # (B, k)
        votes = weights.new_zeros(len(weights), num_classes)  # (B, C)
        votes.scatter_add_(1, memory_targets[nearest], weights)
        predictions.append(votes.argmax(dim=1).cpu())
    return of_all_processes(predictions, len(queries))


def load_neighbors(path: Path, num_images: int, num_neighbors: int | None = None) -> Tensor:
    """The first num_neighbors + 1 columns (or all) of a neighbor file (N, T+1): int64.

    Raises UserError if it is damaged, was mined on another number of images, or has too few neighbors."""
    try:
        neighbors = np.lib.format.read_array(io.BytesIO(path.read_bytes()), allow_pickle=False)
        (rows, columns), low, high = neighbors.shape, neighbors.min(), neighbors.max()
        if rows != num_images or low < 0 or high >= num_images or neighbors.dtype.kind not in "iu":
            found = f"{neighbors.dtype} {neighbors.shape}, {low} to {high}"
            raise ValueError(f"it holds {found}, not integers of 0 to {num_images - 1}")
    except Exception as error:  # NumPy raises several kinds
        raise UserError(
            f"{path} ({path.stat().st_size} bytes) does not hold neighbors of {num_images} images: {error}; "
            "mine them again with simclr.py (ImageNet: moco.py) on this data set and max_images"
        ) from error
    wanted = columns if num_neighbors is None else num_neighbors + 1
    if wanted > columns:
        raise UserError(
            f"num_neighbors {num_neighbors} is more than the {columns - 1} mined in {path}: lower it, or "
            f"mine again in the pretext stage with num_neighbors={num_neighbors}"
        )
    return torch.from_numpy(neighbors[:, :wanted].astype(np.int64))
