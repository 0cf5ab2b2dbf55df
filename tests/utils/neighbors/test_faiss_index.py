from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from utils.arrays import evenly_spaced
from utils.errors import UserError
from utils.neighbors import faiss_index as knn_index
from utils.neighbors.faiss_index import build_index, empty_index, faiss_has_gpu, faiss_search, lists_of

faiss = pytest.importorskip("faiss")


def unit_features(count=600, dim=16, seed=0):
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def brute_force(features, k):
    """The rows of largest inner product in float64, falling."""
    return (features.double() @ features.double().T).argsort(dim=1, descending=True)[:, :k]


# -- what an index is built with


def test_with_at_most_8_lists_all_of_them_are_searched_so_the_answer_is_exact():
    assert torch.equal(faiss_search(unit_features(), 21, "IVF8,Flat"), brute_force(unit_features(), 21))


@pytest.mark.parametrize(
    "index, searched", [("IVF4,Flat", 4), ("IVF64,Flat", 8), ("IVF640,Flat", 20), ("PCA8,IVF640,Flat", 20)]
)
def test_1_in_32_lists_is_searched_but_at_least_8_or_all(index, searched):
    assert faiss.extract_index_ivf(build_index(unit_features(700), 5, index)).nprobe == searched


@pytest.mark.parametrize("index", ["HNSW16", "PCA8,HNSW16"])
def test_a_graph_is_searched_with_twice_as_many_candidates_as_are_asked_for(index):
    built = build_index(unit_features(), 30, index)
    graph = faiss.downcast_index(built.index) if index != "HNSW16" else built
    assert graph.hnsw.efSearch == 60


def test_refining_ranks_four_times_as_many_candidates_as_are_asked_for():
    assert build_index(unit_features(), 30, "SQ4,RFlat").k_factor == 4


def test_an_index_finds_what_it_can_and_minus_1_for_the_rest():
    found = faiss_search(torch.eye(40), 40, "IVF20,Flat")  # 8 of 20 lists do not hold all 40 rows
    assert found.shape == (40, 40) and (found == -1).any(dim=1).all()
    assert all(len(set(row)) == len(row) for row in ([i for i in row if i >= 0] for row in found.tolist()))


@pytest.mark.parametrize("index", ["IVF32,Flat", "HNSW16", "PCA8,Flat", "IVF4,SQ8"])
def test_two_builds_on_one_thread_give_the_same_neighbors(index):
    once, again = (faiss_search(unit_features(), 10, index) for _ in range(2))
    assert torch.equal(once, again)


def test_lists_are_trained_on_64_evenly_spaced_rows_each_and_on_65536_at_least(monkeypatch):
    rows, trained_on = torch.arange(140_000.0)[:, None], []
    for kind in (faiss.IndexIVFFlat, faiss.IndexScalarQuantizer):
        monkeypatch.setattr(kind, "train", lambda self, rows: trained_on.append(rows[:, 0].tolist()))
        monkeypatch.setattr(kind, "add", lambda self, rows: None)
    for index in ("IVF4,Flat", "SQ8", "IVF1500,Flat"):
        build_index(rows, 5, index)
    assert [len(chosen) for chosen in trained_on] == [65_536, 65_536, 96_000]
    assert all(
        chosen == [row * 140_000 // len(chosen) for row in range(len(chosen))] for chosen in trained_on
    )


# -- memory


@pytest.fixture
def in_parts_of_400(monkeypatch):
    monkeypatch.setattr(knn_index, "ROWS", 400)


@pytest.mark.parametrize("index, name", [("Flat", "IndexFlat"), ("HNSW4", "IndexHNSWFlat")])
def test_vectors_that_are_kept_as_they_are_are_added_at_once_without_a_copy(
    index, name, in_parts_of_400, monkeypatch
):
    features, handed = unit_features(), []
    monkeypatch.setattr(getattr(faiss, name), "add", lambda self, rows: handed.append(rows))
    build_index(features, 3, index)
    assert [len(rows) for rows in handed] == [600] and np.shares_memory(handed[0], features.numpy())


def test_vectors_that_are_transformed_are_added_and_searched_in_parts_without_a_copy(
    in_parts_of_400, monkeypatch
):
    features, handed = unit_features(), []
    for method in ("add", "search"):
        real = getattr(faiss.IndexPreTransform, method)
        watched = lambda self, rows, *k, real=real: handed.append(rows) or real(self, rows, *k)  # noqa: E731
        monkeypatch.setattr(faiss.IndexPreTransform, method, watched)
    assert torch.equal(
        faiss_search(features, 3, "RR,Flat"), brute_force(features, 3)
    )  # turned round, of equal angles
    assert [len(rows) for rows in handed] == [400, 200, 400, 200]
    assert all(np.shares_memory(rows, features.numpy()) for rows in handed)


# -- what does not serve


@pytest.mark.parametrize(
    "index, reason",
    [
        ("IVF41,Flat", "41 lists for 40 images"),
        ("IVF1k,Flat", "1024 lists for 40 images"),
        ("IVF999999999999,Flat", "999999999999 lists for 40 images"),  # faiss would take memory for them all
        ("IVF0,Flat", "0 lists"),
        ("IVF2(IVF64,Flat),Flat", "64 lists"),
        ("HNSW1", "2 to 1024 links, not 1"),  # faiss would crash
        ("HNSW99999999", "2 to 1024 links"),
        ("flat", "could not parse index string flat"),
        ("", "could not parse"),
        ("Flat\n", "could not parse"),
        ("PQ3", "multiple of the number of subquantizers"),  # 3 parts of 16 numbers
        ("LSH", "METRIC_L2"),
    ],
)
def test_an_index_that_does_not_serve_is_an_error_in_one_line_with_the_reason_and_what_would(index, reason):
    with pytest.raises(UserError) as caught:
        empty_index(index, 40, 16)
    message = str(caught.value)
    assert message.startswith(f"knn_index {index!r} does not serve: ") and reason in message
    assert message.endswith("set it to Flat, or for example IVF6,Flat or HNSW32") and "\n" not in message
    assert empty_index("IVF6,Flat", 40, 16).nlist == 6 and empty_index("HNSW32", 40, 16).d == 16


@pytest.mark.parametrize(
    "index, reason", [("PQ4", "at least as large"), ("IDMap,Flat", "add does not make sense")]
)
def test_what_faiss_refuses_only_when_it_is_filled_is_such_an_error_too(index, reason):
    with pytest.raises(UserError, match=f"^knn_index '{index}' does not serve: .*{reason}.* or HNSW32$"):
        faiss_search(unit_features(40), 3, index)


def test_what_goes_wrong_with_flat_is_no_matter_of_the_index(monkeypatch):
    def out_of_memory(self, rows):
        raise RuntimeError("Error: out of memory")

    for kind in (faiss.IndexFlat, faiss.IndexScalarQuantizer):
        monkeypatch.setattr(kind, "add", out_of_memory)
    with pytest.raises(RuntimeError, match=r"^Error: out of memory$"):
        faiss_search(unit_features(), 3)
    with pytest.raises(UserError, match="faiss says 'out of memory'"):
        faiss_search(unit_features(), 3, "SQ8")


# -- small parts


def test_the_lists_of_an_index_are_read_as_faiss_reads_them():
    for index in ("IVF4096,Flat", "IVF1k,Flat", "OPQ4_8,IVF12,PQ4", "IVF16_HNSW32,Flat"):
        assert lists_of(index) == [faiss.extract_index_ivf(faiss.index_factory(16, index)).nlist]
    assert lists_of("HNSW32,Flat") == [] and lists_of("IVF2M,Flat") == [2 * 2**20]


def test_rows_are_spaced_evenly():
    assert evenly_spaced(5, 10).tolist() == [0, 2, 4, 6, 8]
    assert evenly_spaced(3, 10).tolist() == [0, 3, 6]
    assert evenly_spaced(7, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("build", "usable"),
    [
        ({"__version__": "1.15.1", "StandardGpuResources": object, "get_num_gpus": lambda: 1}, True),
        ({"__version__": "1.14.3", "StandardGpuResources": object, "get_num_gpus": lambda: 8}, True),
        ({"__version__": "2.0.0", "StandardGpuResources": object, "get_num_gpus": lambda: 1}, True),
        ({"__version__": "1.15.1", "StandardGpuResources": object, "get_num_gpus": lambda: 0}, False),
        ({"__version__": "1.15.1", "get_num_gpus": lambda: 1}, False),
        ({"__version__": "1.14.1.post1", "StandardGpuResources": object, "get_num_gpus": lambda: 1}, False),
        ({"__version__": "1.9.0", "StandardGpuResources": object, "get_num_gpus": lambda: 1}, False),
    ],
    ids=[
        "GPU build",
        "oldest that serves",
        "next major",
        "no GPU",
        "CPU build",
        "community build",
        "1.9 < 1.14",
    ],
)
def test_faiss_searches_on_a_gpu_only_with_a_recent_gpu_build_and_a_gpu(build, usable):
    assert faiss_has_gpu(SimpleNamespace(**build)) is usable
