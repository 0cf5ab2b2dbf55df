import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from utils.errors import UserError
from utils.neighbors.search import (
    check_minable,
    choose_backend,
    itself_first,
    load_neighbors,
    mine_neighbors,
    neighbors_to_bytes,
    recall,
    rows_at_once,
    weighted_knn,
)


def unit_features(count=40, dim=8, seed=0):
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def brute_force(features, topk):
    """The image itself, then the others by falling inner product in float64."""
    similarity = (features.double() @ features.double().T).fill_diagonal_(math.inf)
    return similarity.argsort(dim=1, descending=True)[:, : topk + 1]


@pytest.fixture(params=["torch", "faiss"])
def backend(request):
    if request.param == "faiss":
        pytest.importorskip("faiss")
    return request.param


@pytest.fixture
def no_faiss(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)  # importing it now raises ImportError


# -- mining


@pytest.mark.parametrize("topk", [1, 5, 39])
def test_neighbors_are_those_of_a_float64_sort_itself_first(backend, topk):
    features = unit_features()
    neighbors = mine_neighbors(features, topk, backend)
    assert neighbors.dtype == torch.int64
    assert torch.equal(neighbors, brute_force(features, topk))


def test_faiss_and_torch_find_the_same_sets_across_several_chunks():
    pytest.importorskip("faiss")
    features = unit_features(count=1100, dim=16)
    by_torch, by_faiss = (
        mine_neighbors(features, 20, name).sort(dim=1).values for name in ("torch", "faiss")
    )
    assert torch.equal(by_torch, by_faiss)
    assert torch.equal(by_torch, brute_force(features, 20).sort(dim=1).values)


def test_an_image_is_its_own_column_0_even_among_exact_duplicates(backend):
    features = unit_features(count=10).repeat(2, 1)  # image i and its twin i + 10
    neighbors = mine_neighbors(features, 3, backend)
    assert torch.equal(neighbors[:, 0], torch.arange(20))
    assert torch.equal(neighbors[:, 1], (torch.arange(20) + 10) % 20)


def test_an_image_is_its_own_column_0_even_with_more_twins_than_neighbors(backend):
    features = unit_features(count=2).repeat_interleave(15, dim=0)  # 15 copies of each of two images
    neighbors = mine_neighbors(features, 4, backend)
    assert torch.equal(neighbors[:, 0], torch.arange(30))
    assert all(len(set(row)) == 5 for row in neighbors.tolist())
    assert torch.equal(neighbors // 15, (torch.arange(30) // 15)[:, None].expand(30, 5))


def test_features_are_used_as_they_come_so_longer_rows_attract(backend):
    features = torch.tensor([[1.0, 0.0], [2.0, 0.1], [5.0, 3.0], [0.0, 1.0]])
    assert mine_neighbors(features, 2, backend)[0].tolist() == [0, 2, 1]


def test_autocast_does_not_round_the_similarities(backend):
    features = unit_features(count=200, dim=32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mine_neighbors(features, 10, backend), brute_force(features, 10))


def test_the_torch_search_turns_tf32_off_for_the_call_and_back_on(monkeypatch):
    seen, multiply = [], torch.mm
    monkeypatch.setattr(
        torch,
        "mm",
        lambda *args, **kwargs: (
            seen.append(torch.get_float32_matmul_precision()) or multiply(*args, **kwargs)
        ),
    )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        mine_neighbors(unit_features(), 3, "torch")
        assert seen == ["highest"]
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_torch_search_never_holds_more_than_512_rows_of_similarities(monkeypatch):
    shapes, multiply = [], torch.mm
    monkeypatch.setattr(
        torch, "mm", lambda *args, out: shapes.append(tuple(out.shape)) or multiply(*args, out=out)
    )
    mine_neighbors(unit_features(count=1100), 3, "torch")
    assert shapes == [(512, 1100), (512, 1100), (76, 1100)]


def test_too_few_images_are_an_error_with_both_numbers(backend):
    assert mine_neighbors(unit_features(count=6), 5, backend).shape == (6, 6)
    with pytest.raises(UserError, match=r"^5 images .* 5 neighbors"):
        mine_neighbors(unit_features(count=5), 5, backend)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0], ids=["NaN", "infinite", "all zero"])
def test_rows_without_a_direction_are_an_error_that_counts_and_names_them(backend, value):
    features = unit_features()
    features[[3, 17]] = value
    with pytest.raises(UserError, match=r"2 of 40 features .*rows 3, 17\)"):
        mine_neighbors(features, 3, backend)


def test_one_nan_in_a_row_is_enough_and_only_the_first_rows_are_named():
    features = unit_features()
    features[4:, 1] = math.nan
    with pytest.raises(UserError, match=r"36 of 40 features .*rows 4, 5, 6, 7, 8, \.\.\.\)"):
        mine_neighbors(features, 3)


# -- the choice of a backend


def test_auto_falls_back_to_torch_where_faiss_is_missing(no_faiss):
    features = unit_features()
    assert torch.equal(mine_neighbors(features, 3), brute_force(features, 3))


def test_faiss_asked_for_but_missing_is_a_user_error(no_faiss):
    with pytest.raises(UserError, match="faiss, which is not installed"):
        mine_neighbors(unit_features(), 3, "faiss")


def test_torch_asked_for_needs_no_faiss(no_faiss):
    assert mine_neighbors(unit_features(), 3, "torch").shape == (40, 4)


def test_auto_takes_faiss_on_the_cpu_where_it_is_installed(monkeypatch):
    faiss = pytest.importorskip("faiss")
    built, factory = [], faiss.index_factory
    monkeypatch.setattr(faiss, "index_factory", lambda *what: built.append(what) or factory(*what))
    mine_neighbors(unit_features(dim=8), 3)
    assert built == [(8, "Flat", faiss.METRIC_INNER_PRODUCT)]


def test_itself_moves_to_the_front_and_the_last_candidate_goes_where_it_is_absent():
    candidates = torch.tensor([[0, 1, 2], [2, 1, 0], [0, 1, 2], [0, 1, 2]])
    images = torch.tensor([0, 1, 2, 7])
    assert itself_first(candidates, images).tolist() == [[0, 1, 2], [1, 2, 0], [2, 0, 1], [7, 0, 1]]


# -- approximate indexes


INDEXES = (
    "IVF16,Flat",
    "HNSW16",
    "PCA8,Flat",
    "IVF4,SQ8",
    "PQ4x4",
    "IVF4,PQ4x4,RFlat",
    "RR,IVF4,PQ4x4",
    "NSG16",
)


@pytest.mark.parametrize("index", [*INDEXES, pytest.param("OPQ4,IVF4,PQ4", marks=pytest.mark.slow)])
def test_any_index_of_faiss_gives_every_image_itself_and_topk_different_others(index):
    pytest.importorskip("faiss")
    features = unit_features(count=600, dim=8)
    neighbors = mine_neighbors(features, 20, index=index)
    assert neighbors.dtype == torch.int64 and neighbors.shape == (600, 21)
    assert torch.equal(neighbors[:, 0], torch.arange(600))
    assert all(len(set(row)) == 21 and min(row) >= 0 and max(row) < 600 for row in neighbors.tolist())
    assert recall(neighbors, features) > 0.3  # drawn at random: 20 of 599


def test_an_image_for_which_the_index_finds_too_few_is_searched_exactly():
    pytest.importorskip("faiss")
    features = unit_features()
    neighbors = mine_neighbors(features, 39, index="IVF20,Flat")  # 8 of 20 lists do not hold all 40 images
    assert torch.equal(neighbors, brute_force(features, 39))


def test_images_for_which_the_index_finds_enough_keep_what_it_found(monkeypatch):
    found = torch.tensor([[0, 3, 2], [1, 2, -1], [2, 3, 0], [-1, -1, -1]])
    monkeypatch.setattr("utils.neighbors.search.faiss_search", lambda *_: found)
    monkeypatch.setattr("utils.neighbors.search.check_minable", lambda *_, **__: None)
    features = torch.tensor(
        [[1.0, 0.0], [0.9, 0.1], [0.7, 0.3], [0.0, 1.0]]
    )  # 0, 1, 2, 3 by falling first number
    neighbors = mine_neighbors(features, 2, "faiss", "IVF2,Flat")
    assert neighbors.tolist() == [[0, 3, 2], [1, 0, 2], [2, 3, 0], [3, 2, 1]]


def test_an_index_other_than_flat_takes_faiss_wherever_the_features_are(monkeypatch):
    on_gpu = SimpleNamespace(is_cuda=True)
    monkeypatch.setattr("utils.neighbors.search.faiss_has_gpu", lambda faiss: False)
    assert choose_backend(on_gpu, "auto") == "torch"
    assert choose_backend(on_gpu, "auto", "HNSW32") == "faiss"


def test_an_index_other_than_flat_without_faiss_is_a_user_error(no_faiss):
    for backend in ("auto", "faiss"):
        with pytest.raises(
            UserError, match=r"^knn_index 'HNSW32' needs faiss, which is not installed: .*Flat$"
        ):
            mine_neighbors(unit_features(), 3, backend, "HNSW32")


def test_an_index_other_than_flat_with_torch_is_a_user_error():
    with pytest.raises(
        UserError, match=r"^knn_index 'HNSW32' needs faiss, but knn_backend is torch: .*Flat$"
    ):
        mine_neighbors(unit_features(), 3, "torch", "HNSW32")


# -- recall


def loop_recall(neighbors, features, rows):
    found = 0
    for row in rows:
        similarity = (features.double() @ features[row].double()).tolist()
        others = sorted(set(range(len(features))) - {row}, key=lambda other: -similarity[other])
        found += len(set(others[: neighbors.shape[1] - 1]) & set(neighbors[row, 1:].tolist()))
    return found / (len(rows) * (neighbors.shape[1] - 1))


def test_recall_is_the_share_of_the_exact_neighbors_whatever_their_order():
    features = unit_features()
    neighbors = brute_force(features, 10)
    assert recall(neighbors, features) == 1
    assert recall(neighbors[:, [0, *range(10, 0, -1)]], features) == 1
    neighbors[:, 8:] = brute_force(features, 39)[:, -3:]  # the three farthest in place of three of ten
    assert recall(neighbors, features) == pytest.approx(0.7)


def test_recall_equals_a_loop_over_the_images():
    features = unit_features()
    draws = [torch.randperm(39, generator=torch.Generator().manual_seed(row))[:10] for row in range(40)]
    others = torch.stack([draw + (draw >= row) for row, draw in enumerate(draws)])  # any image but itself
    neighbors = torch.cat([torch.arange(40)[:, None], others], dim=1)
    assert recall(neighbors, features) == pytest.approx(loop_recall(neighbors, features, range(40)))


def test_recall_judges_an_evenly_spaced_sample():
    features = unit_features()
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


@pytest.mark.parametrize("backend, index", [("torch", "Flat"), ("faiss", "Flat"), ("faiss", "HNSW8")])
def test_mining_and_recall_make_no_tensor_of_the_features_size(backend, index, monkeypatch):
    if backend == "faiss":
        pytest.importorskip("faiss")
    monkeypatch.setattr("utils.neighbors.search.BUFFER", 2**16)  # 65,536 similarities, 256 KiB
    features = unit_features(count=2000, dim=128)  # 1,000 KiB
    with Allocations() as allocations:
        recall(mine_neighbors(features, 5, backend, index), features, sample=100)
    assert 2000 * 6 * 8 <= allocations.largest <= 2**18  # the neighbors themselves at least


def test_weighted_knn_makes_no_tensor_of_the_memorys_size_though_some_of_it_does_not_vote(monkeypatch):
    monkeypatch.setattr("utils.neighbors.search.BUFFER", 2**16)
    memory, targets = unit_features(count=2000, dim=128), torch.arange(2000) % 5 - 1
    with Allocations() as allocations:
        weighted_knn(memory, targets, memory[:100], 4)
    assert 0 < allocations.largest <= 2**18


def test_the_similarities_held_at_once_are_bounded_whatever_the_number_of_images(monkeypatch):
    monkeypatch.setattr("utils.neighbors.search.BUFFER", 1000)
    shapes, multiply = [], torch.mm
    monkeypatch.setattr(
        torch, "mm", lambda *args, out: shapes.append(tuple(out.shape)) or multiply(*args, out=out)
    )
    features = unit_features(count=300)
    assert torch.equal(mine_neighbors(features, 3, "torch"), brute_force(features, 3))
    assert shapes == [(3, 300)] * 100
    monkeypatch.setattr("utils.neighbors.search.BUFFER", 10)
    assert rows_at_once(300) == 1  # one row at least


def test_imagenet_takes_a_gibibyte_of_similarities():
    assert rows_at_once(1_281_167) == 209  # 209 x 1,281,167 x 4 bytes = 1.07e9
    assert rows_at_once(50_000) == 512


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


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (10, 0.1), (10, 1.0), (60, 0.5)])
def test_weighted_knn_equals_a_loop_over_queries(k, temperature):
    memory, queries = unit_features(count=60, seed=1), unit_features(count=30, seed=2)
    targets = torch.randint(-1, 4, (60,), generator=torch.Generator().manual_seed(3))
    found = weighted_knn(memory, targets, queries, 4, k=k, temperature=temperature)
    assert found.tolist() == loop_knn(memory, targets, queries, 4, k, temperature)


def test_a_near_vote_outweighs_several_far_ones():
    memory = F.normalize(torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.5, 1.0], [0.5, 1.0]]), dim=1)
    targets, query = torch.tensor([0, 1, 1, 1]), torch.tensor([[1.0, 0.0]])
    assert weighted_knn(memory, targets, query, 2).tolist() == [0]  # exp(10) against 3 exp(4.5)
    assert weighted_knn(memory, targets, query, 2, temperature=1.0).tolist() == [
        1
    ]  # exp(1) against 3 exp(0.45)


def test_unlabelled_memory_rows_neither_vote_nor_take_a_place_among_the_k():
    memory = torch.eye(3)[[0, 0, 0, 1]]
    targets = torch.tensor([-1, -1, -1, 2])
    assert weighted_knn(memory, targets, torch.eye(3)[:1], 3, k=2).tolist() == [2]


def test_k_is_clipped_to_the_memory():
    memory, targets = torch.eye(3), torch.tensor([0, 1, 2])
    assert weighted_knn(memory, targets, memory, 3, k=100).tolist() == [0, 1, 2]


def test_queries_are_answered_in_order_across_chunks():
    memory = torch.eye(5)
    classes = torch.arange(1100) % 5
    assert torch.equal(weighted_knn(memory, torch.arange(5), memory[classes], 5, k=1), classes)


def test_a_memory_without_labels_is_an_error():
    with pytest.raises(ValueError, match="labelled"):
        weighted_knn(torch.eye(3), torch.full((3,), -1), torch.eye(3), 3)


# -- neighbor files


def test_a_neighbor_file_gives_back_its_first_columns(tmp_path):
    neighbors = torch.tensor([[0, 1, 2], [1, 0, 2], [2, 1, 0]])
    (tmp_path / "n.npy").write_bytes(neighbors_to_bytes(neighbors))
    assert np.load(tmp_path / "n.npy").dtype == np.int64
    assert load_neighbors(tmp_path / "n.npy", 3).tolist() == neighbors.tolist()
    assert load_neighbors(tmp_path / "n.npy", 3, 1).tolist() == [
        [0, 1],
        [1, 0],
        [2, 1],
    ]  # itself and one neighbor


@pytest.mark.parametrize(
    "content, num_images, num_neighbors, message",
    [
        (b"", 3, None, r"0 bytes\) is no readable"),
        (b"no array", 3, None, "is no readable"),
        (b"PK\x03\x04 as a .npz begins", 3, None, "is no readable"),
        (np.array([None]), 3, None, "is no readable"),  # pickled objects
        (np.zeros((4, 2), np.int64), 3, None, r"\(4, 2\).*3 images"),
        (np.zeros((3, 2)), 3, None, "float64"),
        (np.full((3, 2), 7), 3, None, "image 7.*0 to 2"),
        (np.full((3, 2), -1), 3, None, "image -1.*0 to 2"),
        (np.zeros((3, 2), np.int64), 3, 2, "num_neighbors 2 .*1 mined.*num_neighbors=2"),
    ],
)
def test_a_neighbor_file_that_does_not_serve_is_named(tmp_path, content, num_images, num_neighbors, message):
    path = tmp_path / "n.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(UserError, match=message):
        load_neighbors(path, num_images, num_neighbors)


def test_what_would_stop_the_mining_is_known_beforehand(monkeypatch):
    check_minable(21, 20, "auto")
    with pytest.raises(UserError, match="20 images are too few to mine 20"):
        check_minable(20, 20, "auto")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match="not installed"):
        check_minable(21, 20, "faiss")


@pytest.mark.parametrize(
    "index, dim, reason",
    [("IVF41,Flat", 16, "41 lists for 40 images"), ("PQ3", 16, "multiple"), ("typo", 16, "parse")],
)
def test_an_index_that_does_not_serve_is_known_beforehand(index, dim, reason):
    pytest.importorskip("faiss")
    check_minable(40, 5, "auto", index="IVF40,Flat", dim=dim)
    with pytest.raises(UserError, match=f"knn_index '{index}' .*{reason}"):
        check_minable(40, 5, "auto", index=index, dim=dim)
