from contextlib import suppress

import pytest
import torch

from tests.utils.neighbors.features import brute_force, unit_features
from utils.neighbors import exact, faiss_index
from utils.neighbors.exact import exact_neighbors, itself_first
from utils.neighbors.faiss_index import faiss_search, import_faiss
from utils.neighbors.search import weighted_knn


@pytest.fixture(params=[30, 1], ids=["4 blocks of columns", "one column at once"])
def small_blocks(request, monkeypatch):
    """16 queries, and at most so many of the features."""
    monkeypatch.setattr(exact, "ROWS", 16)
    monkeypatch.setattr(exact, "SIMILARITIES", 16 * request.param)
    monkeypatch.setattr(exact, "GROUP", 3)


# -- blocks


def test_in_one_block_of_columns_the_answer_is_bit_by_bit_that_of_one_product():
    features = unit_features(count=1100, dim=32).repeat(2, 1)[:1500]  # 400 of them twice
    found = [(rows @ features.T).topk(21, dim=1).indices for rows in features.split(512)]
    rows = torch.arange(1500)
    assert torch.equal(exact_neighbors(features, 20, rows), itself_first(torch.cat(found), rows))


@pytest.mark.parametrize("topk", [1, 20, 100])  # a block has 26 features, the last one 23
def test_over_blocks_of_columns_the_nearest_are_those_of_a_float64_sort(topk, small_blocks):
    features = unit_features(count=101)
    found = exact_neighbors(features, topk, torch.arange(101))
    assert found.dtype == torch.int64 and torch.equal(found, brute_force(features, topk))


def test_rows_may_be_some_in_any_order(small_blocks):
    features, rows = unit_features(count=101), torch.arange(0, 101, 4).flip(0)
    assert torch.equal(exact_neighbors(features, 5, rows), brute_force(features, 5)[rows])


def test_an_image_keeps_column_0_among_duplicates_in_other_blocks(small_blocks):
    features = unit_features(count=2).repeat(50, 1)  # 50 copies of each of two images, in turns
    found = exact_neighbors(features, 4, torch.arange(100))
    assert torch.equal(found[:, 0], torch.arange(100))
    assert all(len(set(row)) == 5 for row in found.tolist())
    assert torch.equal(found % 2, (torch.arange(100) % 2)[:, None].expand(100, 5))


@pytest.mark.parametrize("total, width", [(40, 40), (100, 100), (101, 51), (201, 67), (301, 76)])
def test_blocks_have_even_widths(total, width):
    assert exact.even_width(total, 100) == width


# -- several processes


def on_processes(size, compute, monkeypatch):
    """What compute() gives on each of so many processes, where a first round finds what each has to tell."""
    told = []

    def tell(own):
        told.append(own)
        raise InterruptedError

    def as_process(number):
        for module in (exact, faiss_index):
            monkeypatch.setattr(module, "world_size", lambda: size)
            monkeypatch.setattr(module, "rank", lambda: number)

    monkeypatch.setattr(exact, "gather", tell)
    for number in range(size):
        as_process(number)
        with suppress(InterruptedError):
            compute()
    monkeypatch.setattr(exact, "gather", lambda own: torch.cat(told))
    for number in range(size):
        as_process(number)
        yield compute()


SEARCHES = {
    "exact": lambda features: exact_neighbors(features, 5, torch.arange(len(features))),
    "faiss": lambda features: faiss_search(features, 5),
    "weighted kNN": lambda features: weighted_knn(features, torch.arange(len(features)) % 4 - 1, features, 3),
}
if import_faiss() is None:
    del SEARCHES["faiss"]


@pytest.mark.parametrize("size", [2, 3, 8])  # 7 blocks of 16 queries: the eighth process has none
@pytest.mark.parametrize("search", SEARCHES)
def test_processes_that_share_the_queries_find_what_one_does(search, size, monkeypatch):
    monkeypatch.setattr(exact, "ROWS", 16)
    monkeypatch.setattr(faiss_index, "QUERIES", 16)
    features = unit_features(count=101)
    expected = SEARCHES[search](features)
    found = list(on_processes(size, lambda: SEARCHES[search](features), monkeypatch))
    assert len(found) == size and all(torch.equal(each, expected) for each in found)


def test_each_product_has_the_shape_that_it_has_on_one_process(monkeypatch):
    monkeypatch.setattr(exact, "ROWS", 16)
    shapes, multiply = [], torch.mm

    def watched(*args, out):
        shapes.append(tuple(out.shape))
        return multiply(*args, out=out)

    monkeypatch.setattr(torch, "mm", watched)
    list(on_processes(2, lambda: SEARCHES["exact"](unit_features(count=101)), monkeypatch))
    assert shapes == [*[(16, 101)] * 3, (5, 101), *[(16, 101)] * 3] * 2
