"""Nearest neighbors of features: mining, which SCAN starts from, and the weighted kNN that watches a pretext task."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.arrays import evenly_spaced
from utils.errors import UserError
from utils.neighbors.faiss_index import empty_index, faiss_has_gpu, faiss_search, import_faiss

VAL_NEIGHBORS = 5  # mined within the val split: SCAN validation uses all of them
CHUNK = 512  # rows of similarities held at once,
BUFFER = 2**28  # and fewer where they would be more numbers than these (1 GiB)


def mine_neighbors(features: Tensor, topk: int, backend: str = "auto", index: str = "Flat") -> Tensor:
    """The topk nearest neighbors of every image by inner product.

    features: (N, D) fp32, used as they come: for cosine similarity the caller brings rows of unit length.
    backend: "torch" (where the features are), "faiss", or "auto". Auto takes faiss where it is installed; for features
    on a GPU only if faiss can search there, or if the index needs it.
    index: "Flat", which is exact, or any other string of faiss's index factory, approximate (see `build_index`, and
    `recall`). An image for which it finds too few is searched exactly.
    Returns int64 (N, topk + 1) on the CPU: column 0 is the image itself, however many twins it has, the others follow
    by falling similarity as the index measures it. Raises UserError for too few images, rows without a direction,
    faiss asked for in vain, or an index that does not serve.
    """
    features = features.detach().float()  # no copy of fp32, which may be memory-mapped
    check_minable(len(features), topk, backend, index=index, dim=features.shape[1])
    check_features(features)
    everyone = torch.arange(len(features))
    if choose_backend(features, backend, index) == "torch":
        return exact_neighbors(features, topk, everyone)
    candidates = faiss_search(features, topk + 1, index)  # (N, T+1)
    neighbors = itself_first(candidates, everyone)
    short = (candidates < 0).any(dim=1).nonzero().flatten()
    neighbors[short] = exact_neighbors(features, topk, short)
    return neighbors


def recall(neighbors: Tensor, features: Tensor, sample: int = 1000) -> float:
    """Share of the exact nearest neighbors that were found, over at most `sample` images, evenly spaced.

    neighbors: int64 (N, T+1), column 0, the image itself, left out; features: (N, D) fp32 on any device."""
    rows = evenly_spaced(sample, len(features))  # (S,)
    apart = (torch.arange(len(rows)) * len(features))[:, None]  # (S, 1), keeps the images of the sample apart
    exact = exact_neighbors(features, neighbors.shape[1] - 1, rows)[:, 1:] + apart  # (S, T)
    return torch.isin(exact, neighbors[rows, 1:] + apart).double().mean().item()


def choose_backend(features: Tensor, backend: str, index: str = "Flat") -> str:
    """`faiss` or `torch`: what `auto` stands for, for features where they are; the others stand for themselves."""
    if backend != "auto":
        return backend
    faiss = import_faiss()
    serves = faiss is not None and (not features.is_cuda or faiss_has_gpu(faiss))
    return "faiss" if serves or index != "Flat" else "torch"


def check_minable(
    num_images: int, topk: int, backend: str, split: str = "", index: str = "Flat", dim: int | None = None
) -> None:
    """Raise UserError if mining is bound to fail: known before the training that it follows.

    dim: size of the features, which an index other than Flat must fit."""
    if num_images < topk + 1:
        others = {"train": ", or lower num_neighbors", "val": ", or, of a folder, raise folder.val_share"}
        images, instead = f"{split} images".lstrip(), others.get(split, "")
        raise UserError(
            f"{num_images} {images} are too few to mine {topk} neighbors each: at least {topk + 1} are needed; add "
            f"images{instead}"
        )
    if index != "Flat" and backend == "torch":
        raise UserError(
            f"knn_index {index!r} needs faiss, but knn_backend is torch: set it to auto, or knn_index=Flat"
        )
    if (index != "Flat" or backend == "faiss") and import_faiss() is None:
        asked, instead = "knn_backend is faiss", "knn_backend to torch"
        if index != "Flat":
            asked, instead = f"knn_index {index!r} needs faiss", "knn_index to Flat"
        raise UserError(f"{asked}, which is not installed: install it, or set {instead}")
    if index != "Flat":
        empty_index(index, num_images, dim)


def check_features(features: Tensor) -> None:
    """Raise UserError unless every row has a direction."""
    norms = torch.cat([rows.norm(dim=1) for rows in features.split(CHUNK)])  # (N,)
    bad = (~(norms.isfinite() & (norms > 0))).nonzero().flatten().tolist()
    if bad:
        more = ", ..." if len(bad) > 5 else ""
        raise UserError(
            f"{len(bad)} of {len(features)} features are NaN, infinite or all zero (rows "
            f"{', '.join(map(str, bad[:5]))}{more}): such rows have no neighbors. Check the model and these images."
        )


def itself_first(candidates: Tensor, itself: Tensor) -> Tensor:
    """Move each image's own index to column 0; where twins pushed it out, the last candidate goes.

    candidates: int64 (Q, T+1), of the images `itself` (Q,)."""
    itself = itself[:, None]  # (Q, 1)
    left_out = candidates == itself  # (Q, T+1), at most one True a row
    left_out[:, -1] |= ~left_out.any(dim=1)  # exactly one
    return torch.cat([itself, candidates[~left_out].view(len(candidates), candidates.shape[1] - 1)], dim=1)


def exact_neighbors(features: Tensor, topk: int, rows: Tensor) -> Tensor:
    """The images `rows` (Q,) and their topk nearest by falling inner product: int64 (Q, topk + 1) on the CPU.

    features: (N, D) fp32, searched where they are; what that takes of memory is bounded (BUFFER)."""
    nearest = torch.empty(len(rows), topk + 1, dtype=torch.int64)
    chunk = rows_at_once(len(features))
    buffer = features.new_empty(min(chunk, len(rows)), len(features))  # (C, N), reused: half the time
    with full_precision_matmul():
        for start in range(0, len(rows), chunk):
            queries = features[rows[start : start + chunk]]  # (C, D)
            similarity = torch.mm(queries, features.T, out=buffer[: len(queries)])  # (C, N)
            nearest[start : start + chunk] = similarity.topk(topk + 1, dim=1).indices
    return itself_first(nearest, rows)


def rows_at_once(num_images: int) -> int:
    return max(1, min(CHUNK, BUFFER // num_images))


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
    memory: Tensor,
    memory_targets: Tensor,
    queries: Tensor,
    num_classes: int,
    k: int = 100,
    temperature: float = 0.1,
) -> Tensor:
    """Classify by the k nearest of a memory (Wu et al., arXiv:1805.01978, sec. 3.4).

    memory: (N, D) with int64 classes (N,), queries: (Q, D), both of unit length. Each of the k nearest rows votes for
    its class with exp(similarity / temperature); rows of target -1 do not vote; k is clipped to the rows that do.
    Returns the int64 (Q,) predicted classes. Raises ValueError if no row of the memory is labelled.
    """
    memory_targets = memory_targets.to(memory.device)
    unlabelled = memory_targets < 0  # (N,)
    num_voters = len(memory) - int(unlabelled.sum())
    if num_voters == 0:
        raise ValueError("no row of the memory is labelled: kNN accuracy needs a labelled memory")
    predictions = []
    for rows in queries.split(rows_at_once(len(memory))):
        similarity = (rows @ memory.T).float().masked_fill_(unlabelled, -torch.inf)  # (C, N)
        similarity, nearest = similarity.topk(min(k, num_voters), dim=1)  # (C, k) each
        # exp(similarity / temperature) up to a factor per query, which changes no vote and cannot overflow.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()  # (C, k)
        votes = weights.new_zeros(len(rows), num_classes).scatter_add(
            1, memory_targets[nearest], weights
        )  # (C, K)
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
        raise UserError(
            f"{path} ({path.stat().st_size} bytes) is no readable .npy file: mine it again"
        ) from error
    if (
        neighbors.ndim != 2
        or len(neighbors) != num_images
        or not neighbors.size
        or neighbors.dtype.kind not in "iu"
    ):
        raise UserError(
            f"{path} holds {neighbors.dtype} {neighbors.shape}, but the split has {num_images} images: mine "
            "the neighbors again with simclr.py (ImageNet: moco.py) on this data set, with the max_images of this stage"
        )
    low, high = neighbors.min(), neighbors.max()
    if low < 0 or high >= num_images:
        raise UserError(
            f"{path} names image {low if low < 0 else high}, but the split's images are 0 to {num_images - 1}: mine "
            "the neighbors again with simclr.py (ImageNet: moco.py) on this data set"
        )
    mined = neighbors.shape[1] - 1
    if num_neighbors is not None and num_neighbors > mined:
        raise UserError(
            f"num_neighbors {num_neighbors} is more than the {mined} mined in {path}: set num_neighbors to at "
            f"most {mined}, or mine more in the pretext stage (simclr.py, moco.py) with num_neighbors={num_neighbors}"
        )
    return torch.from_numpy(
        neighbors[:, : num_neighbors + 1 if num_neighbors is not None else None].astype(np.int64)
    )
