"""Exact search for the largest inner products, in blocks of bounded memory; processes share the queries.

Features that do not fit the device stay on the host, which holds 100 million of size 128 in 51 GB, and go
to the device block by block. Each block serves 65,536 queries, which is 32,768 operations a byte, so that its
way takes little time beside the products. Features spread over several devices, with the queries passed
round, would be faster by that little only."""

from collections.abc import Iterator

import torch
from torch import Tensor

from utils.device import full_precision, sent
from utils.distributed import gather, rank, world_size

ROWS, SIMILARITIES = 512, 2**26  # queries at once, and their similarities at once, which are 256 MiB
GROUP = 128  # blocks of ROWS queries for which a block of the memory is fetched once


def exact_neighbors(features: Tensor, topk: int, rows: Tensor, device: torch.device | None = None) -> Tensor:
    """The images `rows` (Q,) and their topk nearest by falling inner product: int64 (Q, topk + 1) on the CPU.

    features: (N, D) fp32, searched on `device`, which is theirs if it is not given."""
    blocks = nearest_by_blocks(features, rows, features, topk + 1, device or features.device)
    return of_all_processes([itself_first(found.cpu(), block) for block, _, found in blocks], len(rows))


def itself_first(candidates: Tensor, images: Tensor) -> Tensor:
    """Move each image's own number to column 0; if duplicates pushed it out, the last candidate is dropped.

    candidates: (Q, T+1), of the images (Q,); returns their dtype."""
    is_dropped = candidates == images[:, None]  # (Q, T+1), at most one True a row
    is_dropped[:, -1] |= ~is_dropped.any(dim=1)  # exactly one
    column = is_dropped.byte().argmax(dim=1, keepdim=True)  # (Q, 1)
    before = torch.arange(candidates.shape[1] - 1) < column  # (Q, T)
    others = torch.where(before, candidates[:, :-1], candidates[:, 1:])  # (Q, T)
    return torch.cat([images[:, None].to(candidates.dtype), others], dim=1)


def nearest_by_blocks(
    queries: Tensor,
    rows: Tensor,
    memory: Tensor,
    k: int,
    device: torch.device,
    left_out: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each block (B,) of this process's share of `rows`: the block, and on the device the k largest inner
    products of queries[block] with rows of the memory, falling, and the numbers of these rows: (B, k) each.

    queries: (M, D), memory: (N, D), left_out: bool (N,). A share is whole blocks, so that every product has
    the shape that it has on one process."""
    blocks = rows.split(ROWS)[rank() :: world_size()] or (rows[:0],)
    width = even_width(len(memory), max(1, SIMILARITIES // ROWS))
    buffer = memory.new_empty(min(ROWS, len(rows)) * width, device=device)  # reused: takes half the time
    numbers = torch.int32 if len(memory) < 2**31 else torch.int64
    for first in range(0, len(blocks), GROUP):
        group = blocks[first : first + GROUP]
        best = [None] * len(group)
        with full_precision():
            for start in range(0, len(memory), width):
                part = sent(memory[start : start + width], device)  # (W, D)
                for index, block in enumerate(group):
                    shape = len(block), len(part)
                    similarity = buffer[: shape[0] * shape[1]].view(shape)  # (B, W)
                    torch.mm(sent(queries[block], device), part.T, out=similarity)
                    if left_out is not None:
                        similarity.masked_fill_(left_out[start : start + width], -torch.inf)
                    values, found = similarity.topk(min(k, len(part)), dim=1)
                    best[index] = merged(best[index], (values, found.add_(start).to(numbers)), k)
        for block, (values, found) in zip(group, best, strict=True):
            yield block, values, found


def even_width(total: int, most: int) -> int:
    """The width of the fewest parts of a total that are of nearly equal width, at most `most`."""
    return -(-total // -(-total // most))


def merged(best: tuple[Tensor, Tensor] | None, new: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The k largest values of two sets, falling, and their numbers: at most (B, k) each, as is returned."""
    if best is None:
        return new
    values, numbers = (torch.cat(pair, dim=1) for pair in zip(best, new, strict=True))
    values, columns = values.topk(min(k, values.shape[1]), dim=1)
    return values, numbers.gather(1, columns)


def of_all_processes(own: list[Tensor], count: int, size: int | None = None) -> Tensor:
    """All processes' results for the blocks (of ROWS, or of `size`) of `count` rows, in their order: int64
    (count, ...). Block i is from process i modulo their number."""
    found, blocks = gather(torch.cat(own)), torch.arange(count).split(size or ROWS)
    order = torch.cat([block for first in range(world_size()) for block in blocks[first :: world_size()]])
    return torch.empty_like(found).index_copy_(0, order, found).long()
