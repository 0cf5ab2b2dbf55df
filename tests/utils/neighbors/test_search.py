import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.utils.neighbors.features import brute_force, unit_features
from utils.errors import UserError
from utils.neighbors import exact, search
from utils.neighbors.faiss_index import import_faiss
from utils.neighbors.search import load_neighbors, mine_neighbors, recall, weighted_knn
from utils.storage.arrays import to_npy

needs_faiss = pytest.mark.skipif(import_faiss() is None, reason="faiss is not installed")


@pytest.fixture(params=["torch", pytest.param("faiss", marks=needs_faiss)])
def backend(request):
    return request.param


@pytest.fixture
def products(monkeypatch):
    """Of each matrix product of similarities the shape, and whether it may be rounded."""
    seen, multiply = [], torch.mm

    def watched(*args, out):
        is_rounded = torch.backends.cuda.matmul.allow_tf32 or torch.is_autocast_enabled("cpu")
        seen.append((tuple(out.shape), is_rounded))
        return multiply(*args, out=out)

    monkeypatch.setattr(torch, "mm", watched)
    return seen


# -- mining


@pytest.mark.parametrize("topk", [1, 5, 39])
def test_neighbors_are_those_of_a_float64_sort_itself_first(backend, topk):
    neighbors = mine_neighbors(unit_features(), topk, backend)
    assert neighbors.dtype == torch.int64 and torch.equal(neighbors, brute_force(unit_features(), topk))


def test_over_several_blocks_of_rows_too(backend, products):
    features = unit_features(count=1100, dim=16)
    assert torch.equal(mine_neighbors(features, 20, backend), brute_force(features, 20))
    assert [shape for shape, _ in products] == [(512, 1100), (512, 1100), (76, 1100)] * (backend == "torch")


def test_an_image_is_its_own_column_0_even_with_more_exact_duplicates_than_neighbors(backend):
    features = unit_features(count=2).repeat_interleave(15, dim=0)  # 15 copies of each of two images
    neighbors = mine_neighbors(features, 4, backend)
    assert torch.equal(neighbors[:, 0], torch.arange(30))
    assert all(len(set(row)) == 5 for row in neighbors.tolist())
    assert torch.equal(neighbors // 15, (torch.arange(30) // 15)[:, None].expand(30, 5))


def test_features_are_used_as_they_come_so_longer_rows_attract(backend):
    features = torch.tensor([[1.0, 0.0], [2.0, 0.1], [5.0, 3.0], [0.0, 1.0]])
    assert mine_neighbors(features, 2, backend)[0].tolist() == [0, 2, 1]


def test_similarities_are_fp32_even_under_autocast_and_where_tf32_is_allowed(backend, products):
    features, matmul = unit_features(count=200, dim=32), torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        neighbors = mine_neighbors(features, 10, backend)
        after, matmul.allow_tf32 = (torch.is_autocast_enabled("cpu"), matmul.allow_tf32), before
    assert torch.equal(neighbors, brute_force(features, 10)) and after == (True, True)
    assert products == [((200, 200), False)] * (backend == "torch")


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0], ids=["NaN", "infinite", "all zero"])
@pytest.mark.parametrize(
    "rows, named", [([3, 17], r"\b2 of 40 .* 3, 17\b"), (range(4, 40), "36 of 40 .* 4, 5, 6, 7, 8,")]
)
def test_rows_without_neighbors_are_an_error_that_counts_them_and_names_five(value, rows, named):
    features = unit_features()
    features[list(rows)] = value
    with pytest.raises(UserError, match=named):
        mine_neighbors(features, 3)


# -- the choice of a backend

CHOICES = [  # on a GPU, faiss, index, what auto takes
    (False, None, "Flat", "torch"),
    (False, "of CPUs", "Flat", "faiss"),
    (True, "of CPUs", "Flat", "torch"),
    (True, "of CPUs", "HNSW32", "faiss"),
    (True, "of GPUs", "Flat", "faiss"),
]


@pytest.mark.parametrize("is_cuda, faiss, index, chosen", CHOICES)
def test_auto_takes_faiss_if_it_searches_on_that_device_or_the_index_needs_it(
    is_cuda, faiss, index, chosen, monkeypatch
):
    monkeypatch.setattr(search, "import_faiss", lambda: faiss)
    monkeypatch.setattr(search, "faiss_has_gpu", lambda faiss: faiss == "of GPUs")
    assert search.choose_backend(SimpleNamespace(is_cuda=is_cuda), "auto", index) == chosen


@pytest.mark.parametrize("index, chosen", [("Flat", "torch"), ("HNSW32", "faiss")])
def test_auto_searches_on_the_device_block_by_block_if_the_features_do_not_fit_there(
    index, chosen, monkeypatch
):
    monkeypatch.setattr(search, "import_faiss", lambda: "of CPUs")
    assert search.choose_backend(unit_features(), "auto", index, torch.device("cuda")) == chosen


# -- what is known before there are features


@pytest.mark.parametrize("split, key", [("train", "num_neighbors"), ("val", "folder.val_share")])
def test_too_few_images_are_an_error_with_both_numbers_and_the_key_that_helps(split, key):
    search.check_minable(21, 20, "torch", split)
    with pytest.raises(UserError, match=rf"20 {split} .* 20 neighbors.* 21 .*{key}"):
        search.check_minable(20, 20, "torch", split)


@pytest.mark.parametrize("backend, index", [("faiss", "Flat"), ("auto", "HNSW32"), ("torch", "HNSW32")])
def test_a_search_that_needs_faiss_without_it_is_an_error_with_the_keys(backend, index, monkeypatch):
    monkeypatch.setattr(search, "import_faiss", lambda: None)
    named = rf"knn_index '{index}'.*knn_backend {backend}.*knn_index=Flat knn_backend=torch"
    with pytest.raises(UserError, match=named):
        search.check_minable(40, 3, backend, index=index)


# -- approximate indexes


@needs_faiss
@pytest.mark.parametrize("index", ["IVF16,Flat", "HNSW16"])
def test_an_index_gives_every_image_itself_and_topk_different_others(index):
    features = unit_features(count=600)
    neighbors = mine_neighbors(features, 20, index=index)
    assert neighbors.dtype == torch.int64 and torch.equal(neighbors[:, 0], torch.arange(600))
    assert all(len(set(row)) == 21 and min(row) >= 0 and max(row) < 600 for row in neighbors.tolist())
    assert recall(neighbors, features) > 0.3  # drawn at random: 20 of 599


def test_images_for_which_the_index_finds_too_few_are_searched_exactly(monkeypatch):
    found = torch.tensor([[0, 3, 2], [1, 2, -1], [2, 3, 0], [-1, -1, -1]])
    monkeypatch.setattr(search, "faiss_search", lambda *_: found)
    monkeypatch.setattr(search, "check_minable", lambda *_, **__: None)
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.7, 0.3], [0.0, 1.0]])  # by falling first number
    neighbors = mine_neighbors(features, 2, "faiss", "IVF2,Flat")
    assert neighbors.tolist() == [[0, 3, 2], [1, 0, 2], [2, 3, 0], [3, 2, 1]]


# -- recall


def test_recall_is_the_share_of_the_exact_neighbors_in_any_order_of_an_evenly_spaced_sample():
    features = unit_features()
    neighbors = brute_force(features, 10)
    assert recall(neighbors[:, [0, *range(10, 0, -1)]], features) == 1
    neighbors[:, 8:] = brute_force(features, 39)[:, -3:]  # the three farthest in place of three of ten
    assert recall(neighbors, features) == pytest.approx(0.7)
    neighbors = brute_force(features, 5)
    neighbors[1::2, 1:] = brute_force(features, 39)[1::2, -5:]  # every second image has the farthest
    assert recall(neighbors, features, sample=20) == 1  # images 0, 2, 4, ...
    assert recall(neighbors, features, sample=40) == 0.5


# -- memory


class Allocations(TorchDispatchMode):
    """The bytes of the largest tensor that PyTorch makes, views left out."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        known = {tensor.untyped_storage().data_ptr() for tensor in args if isinstance(tensor, torch.Tensor)}
        if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in known:
            self.largest = max(self.largest, result.untyped_storage().nbytes())
        return result


def mined_and_judged(features, backend, index):
    recall(mine_neighbors(features, 5, backend, index), features, sample=100)


MEMORY = [
    lambda features: mined_and_judged(features, "torch", "Flat"),
    pytest.param(lambda features: mined_and_judged(features, "faiss", "HNSW8"), marks=needs_faiss),
    lambda features: weighted_knn(features, torch.arange(2000) % 5 - 1, features[:100], 4),
]


@pytest.mark.parametrize("compute", MEMORY, ids=["exact", "index", "weighted kNN"])
def test_mining_recall_and_knn_make_no_tensor_of_the_features_size(compute, monkeypatch):
    monkeypatch.setattr(exact, "SIMILARITIES", 2**16)  # 65,536 similarities, 256 KiB
    features = unit_features(count=2000, dim=128)  # 1,000 KiB
    with Allocations() as allocations:
        compute(features)
    assert 0 < allocations.largest <= 2**18


# -- weighted kNN


def loop_knn(memory, memory_targets, queries, num_classes, k, temperature):
    predictions = []
    for query in queries:
        similarity = (memory.double() @ query.double()).tolist()
        labelled = [row for row, target in enumerate(memory_targets.tolist()) if target >= 0]
        votes = [0.0] * num_classes
        for row in sorted(labelled, key=lambda row: -similarity[row])[:k]:
            votes[memory_targets[row]] += math.exp(similarity[row] / temperature)
        predictions.append(votes.index(max(votes)))
    return predictions


@pytest.mark.parametrize("k, temperature", [(1, 0.1), (10, 0.1), (10, 1.0), (60, 0.5)])
def test_weighted_knn_equals_a_loop_in_which_unlabelled_rows_do_not_vote(k, temperature, monkeypatch):
    monkeypatch.setattr(exact, "ROWS", 7)
    monkeypatch.setattr(exact, "SIMILARITIES", 7 * 25)  # blocks of 20 of the 60
    memory, queries = unit_features(count=60, seed=1), unit_features(count=30, seed=2)
    targets = torch.randint(-1, 4, (60,), generator=torch.Generator().manual_seed(3))
    found = weighted_knn(memory, targets, queries, 4, k=k, temperature=temperature)
    assert found.tolist() == loop_knn(memory, targets, queries, 4, k, temperature)


def test_by_default_the_100_nearest_vote_at_temperature_0_1():
    """The nearest row, of class 1, votes 1. The next 98, of class 0, vote exp(-0.458 / 0.1) = 1 / 97.5 each,
    as do the 100th, of class 1, and the 101st, of class 0. So class 1 has 1 + 1 / 97.5 against 98 / 97.5;
    without the 100th, or with the 101st, it would have less than class 0."""
    similarity = torch.tensor([1.0] + [0.5421] * 98 + [0.5420, 0.5419], dtype=torch.float64)
    memory = torch.stack([similarity, (1 - similarity**2).sqrt()], dim=1).float()
    targets, query = torch.tensor([1] + [0] * 98 + [1, 0]), torch.tensor([[1.0, 0.0]])
    assert weighted_knn(memory, targets, query, 2).tolist() == [1]
    for other in ({"k": 99}, {"k": 101}, {"temperature": 0.101}):
        assert weighted_knn(memory, targets, query, 2, **other).tolist() == [0], other


def test_votes_do_not_overflow_at_a_low_temperature():
    memory = torch.tensor([[0.96, 0.28], [1.0, 0.0]])  # exp(96) and exp(100) are infinite in fp32
    found = weighted_knn(memory, torch.tensor([0, 1]), torch.tensor([[1.0, 0.0]]), 2, temperature=0.01)
    assert found.tolist() == [1]


def test_a_memory_without_labels_is_an_error():
    with pytest.raises(ValueError, match="labelled"):
        weighted_knn(torch.eye(3), torch.full((3,), -1), torch.eye(3), 3)


# -- neighbor files


def test_a_neighbor_file_gives_back_its_first_columns(tmp_path):
    neighbors, path = torch.tensor([[0, 1, 2], [1, 0, 2], [2, 1, 0]]), tmp_path / "n.npy"
    path.write_bytes(to_npy(neighbors))
    assert np.load(path).dtype == np.int64
    assert load_neighbors(path, 3).tolist() == neighbors.tolist()
    assert load_neighbors(path, 3, 1).tolist() == [[0, 1], [1, 0], [2, 1]]  # itself and one more


@pytest.mark.parametrize(
    "content, num_neighbors, named",
    [
        (b"", None, "n.npy.*0 bytes"),
        (b"no array", None, "n.npy.*8 bytes"),
        (np.array([None]), None, "n.npy"),  # pickled objects
        (np.zeros((4, 2), np.int64), None, r"n.npy.*3 images.*\(4, 2\)"),
        (np.zeros((3, 2)), None, "n.npy.*float64"),
        (np.zeros((3, 0), np.int64), None, "n.npy"),
        (np.full((3, 2), 7), None, r"n.npy.*\b7\b.*0 to 2"),
        (np.full((3, 2), -1), None, "n.npy.*-1.*0 to 2"),
        (np.zeros((3, 2), np.int64), 2, "num_neighbors 2 .*1 mined.*n.npy.*num_neighbors=2"),
    ],
)
def test_a_neighbor_file_that_does_not_serve_is_named(tmp_path, content, num_neighbors, named):
    path = tmp_path / "n.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(UserError, match=named):
        load_neighbors(path, 3, num_neighbors)
