import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from utils.arrays import evenly_spaced
from utils.errors import UserError
from utils.neighbors import faiss_index
from utils.neighbors.faiss_index import build_index, check_index, faiss_has_gpu, faiss_search, import_faiss

try:
    import faiss
except ImportError:
    faiss = None
needs_faiss = pytest.mark.skipif(faiss is None, reason="faiss is not installed")


def unit_features(count=600, dim=16, seed=0):
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def brute_force(features, k):
    """The rows of largest inner product in float64, falling."""
    return (features.double() @ features.double().T).argsort(dim=1, descending=True)[:, :k]


# -- which strings are an index


@pytest.mark.parametrize("index", ["Flat", "IVF1,Flat", "IVF40,Flat", "HNSW2", "HNSW32", "HNSW999"])
def test_flat_ivf_and_hnsw_with_a_plain_number_are_supported(index):
    check_index(index, 40)


OTHERS = (
    "",
    "flat",
    "Flat\n",
    "IVF4",
    "IVF1k,Flat",
    "IVF0,Flat",
    "IVF4,PQ8",
    "PQ4",
    "OPQ4,IVF4,Flat",
    "SQ8,RFlat",
)
GRAPHS = ("HNSW", "HNSW1", "HNSW99999999", "HNSW32,Flat")


@pytest.mark.parametrize("index", [*OTHERS, *GRAPHS, f"IVF{'9' * 5000},Flat"])
def test_any_other_string_is_an_error_that_names_the_key_the_value_and_the_three_forms(index):
    with pytest.raises(UserError) as caught:
        check_index(index, 40)
    assert all(word in str(caught.value) for word in ("knn_index", repr(index), "Flat", "IVFn,Flat", "HNSWn"))


def test_more_lists_than_images_are_an_error_with_both_numbers():
    with pytest.raises(UserError, match=r"knn_index 'IVF41,Flat'.* 40 images"):
        check_index("IVF41,Flat", 40)


# -- what an index is built with


@needs_faiss
def test_with_at_most_8_lists_all_of_them_are_searched_so_the_answer_is_exact():
    assert torch.equal(faiss_search(unit_features(), 21, "IVF8,Flat"), brute_force(unit_features(), 21))


@needs_faiss
@pytest.mark.parametrize("index, searched", [("IVF4,Flat", 4), ("IVF64,Flat", 8), ("IVF640,Flat", 20)])
def test_1_in_32_lists_is_searched_but_at_least_8_or_all(index, searched):
    assert build_index(unit_features(700), 5, index).nprobe == searched


@needs_faiss
def test_a_graph_is_searched_with_twice_as_many_candidates_as_are_asked_for():
    assert build_index(unit_features(), 30, "HNSW16").hnsw.efSearch == 60


@needs_faiss
def test_an_index_finds_what_it_can_and_minus_1_for_the_rest():
    found = faiss_search(torch.eye(40), 40, "IVF20,Flat")  # 8 of 20 lists do not hold all 40 rows
    assert found.shape == (40, 40) and (found == -1).any(dim=1).all()
    assert all(len(set(row)) == len(row) for row in ([i for i in row if i >= 0] for row in found.tolist()))


@needs_faiss
@pytest.mark.parametrize("index", ["IVF32,Flat", "HNSW16"])
def test_two_builds_on_one_thread_give_the_same_neighbors(index):
    once, again = (faiss_search(unit_features(), 10, index) for _ in range(2))
    assert torch.equal(once, again)


@needs_faiss
def test_lists_are_trained_on_64_evenly_spaced_rows_each_and_on_65536_at_least(monkeypatch):
    rows, trained_on = torch.arange(140_000.0)[:, None], []
    monkeypatch.setattr(faiss.IndexIVFFlat, "train", lambda _, rows: trained_on.append(rows[:, 0].tolist()))
    monkeypatch.setattr(faiss.IndexIVFFlat, "add", lambda _, rows: None)
    for index in ("IVF4,Flat", "IVF1500,Flat"):
        build_index(rows, 5, index)
    for chosen, count in zip(trained_on, (65_536, 96_000), strict=True):
        assert chosen == [row * 140_000 // count for row in range(count)]


@needs_faiss
@pytest.mark.parametrize(
    "index, name", [("Flat", "IndexFlat"), ("IVF4,Flat", "IndexIVFFlat"), ("HNSW4", "IndexHNSWFlat")]
)
def test_features_on_the_cpu_are_added_at_once_and_searched_in_parts_without_a_copy(index, name, monkeypatch):
    monkeypatch.setattr(faiss_index, "ROWS", 400)
    features, handed = unit_features(), []
    for method in ("add", "search"):
        real = getattr(getattr(faiss, name), method)
        watched = lambda self, rows, *k, real=real: handed.append(rows) or real(self, rows, *k)  # noqa: E731
        monkeypatch.setattr(getattr(faiss, name), method, watched)
    faiss_search(features, 3, index)
    assert [len(rows) for rows in handed] == [600, 400, 200]
    assert all(np.shares_memory(rows, features.numpy()) for rows in handed)


def test_rows_are_spaced_evenly():
    assert evenly_spaced(5, 10).tolist() == [0, 2, 4, 6, 8]
    assert evenly_spaced(3, 10).tolist() == [0, 3, 6]
    assert evenly_spaced(7, 3).tolist() == [0, 1, 2]


# -- which faiss is used


@pytest.fixture
def anew():
    """faiss is looked for again in this test, and after it."""
    import_faiss.cache_clear()
    yield
    import_faiss.cache_clear()


def test_a_missing_faiss_is_none_without_a_word(anew, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faiss", None)  # importing it now raises ModuleNotFoundError
    assert import_faiss() is None and capsys.readouterr().out == ""


BROKEN = [
    "raise ImportError('too old')",
    "raise OSError('too old')",
    "raise SystemError('too old')",
    "import too.old",
]


@pytest.mark.parametrize("content", [*BROKEN, "name = 'another module, too old'"])
def test_a_broken_faiss_is_none_and_the_console_says_so_once(content, anew, monkeypatch, capsys, tmp_path):
    (tmp_path / "faiss.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    assert import_faiss() is import_faiss() is None
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and ("too" in said or "METRIC_INNER_PRODUCT" in said)


@pytest.mark.parametrize(
    ("version", "gpus", "usable"),
    [
        ("1.15.1", 1, True),
        ("1.14.3", 8, True),
        ("2.0.0", 1, True),
        ("1.15.1", 0, False),
        ("1.14.1.post1", 1, False),  # a community build
        ("1.9.0", 1, False),
    ],
)
def test_faiss_searches_on_a_gpu_only_with_a_recent_gpu_build_and_a_gpu(version, gpus, usable):
    cpu_build = {"__version__": version, "get_num_gpus": lambda: gpus}
    assert faiss_has_gpu(SimpleNamespace(**cpu_build, StandardGpuResources=object)) is usable
    assert not faiss_has_gpu(SimpleNamespace(**cpu_build))
