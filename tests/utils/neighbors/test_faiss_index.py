import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.utils.neighbors.features import brute_force, unit_features
from utils.arrays import evenly_spaced
from utils.errors import UserError
from utils.mining import check_before_training
from utils.neighbors import faiss_index
from utils.neighbors.faiss_index import build_index, check_index, faiss_has_gpu, faiss_search, import_faiss

faiss = import_faiss()
needs_faiss = pytest.mark.skipif(faiss is None, reason="faiss is not installed")


# -- which strings are an index


@pytest.mark.parametrize("index", ["Flat", "IVF1,Flat", "IVF40,Flat", "HNSW2", "HNSW32", "HNSW999"])
def test_flat_ivf_and_hnsw_with_a_plain_number_are_supported(index):
    check_index(index, 40)


LISTS = (
    "",
    "flat",
    "Flat\n",
    "IVF4",
    "IVF1k,Flat",
    "IVF0,Flat",
    "IVF4,PQ8",
    "PQ4",
    "OPQ4,IVF4,Flat",
    "IVF41,Flat",
)
GRAPHS = ("HNSW", "HNSW1", "HNSW99999999", "HNSW32,Flat")


@pytest.mark.parametrize("index", [*LISTS, *GRAPHS, f"IVF{'9' * 5000},Flat"])
def test_any_other_string_or_more_lists_than_images_is_an_error_with_the_three_forms(index):
    with pytest.raises(UserError) as caught:
        check_index(index, 40)
    named = ("knn_index", repr(index), "40", "Flat", "IVFn,Flat", "HNSWn")
    assert all(word in str(caught.value) for word in named)


# -- what an index is built with


@needs_faiss
def test_with_at_most_8_lists_all_of_them_are_searched_so_the_answer_is_exact():
    features = unit_features(600, 16)
    assert torch.equal(faiss_search(features, 21, "IVF8,Flat"), brute_force(features, 20))


@needs_faiss
@pytest.mark.parametrize("index, searched", [("IVF4,Flat", 4), ("IVF64,Flat", 8), ("IVF640,Flat", 20)])
def test_1_in_32_lists_is_searched_but_at_least_8_or_all(index, searched):
    assert build_index(unit_features(700), 5, index).nprobe == searched


@needs_faiss
def test_a_graph_is_searched_with_twice_as_many_candidates_as_are_asked_for():
    assert build_index(unit_features(), 30, "HNSW16").hnsw.efSearch == 60


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
@pytest.mark.parametrize("index, name", [("Flat", "Flat"), ("IVF4,Flat", "IVFFlat"), ("HNSW4", "HNSWFlat")])
def test_features_on_the_cpu_are_added_at_once_and_searched_in_parts_without_a_copy(index, name, monkeypatch):
    monkeypatch.setattr(faiss_index, "QUERIES", 400)
    features, handed, kind = unit_features(600), [], getattr(faiss, f"Index{name}")

    def watch(method):
        real = getattr(kind, method)
        monkeypatch.setattr(kind, method, lambda self, rows, *k: handed.append(rows) or real(self, rows, *k))

    watch("add")
    watch("search")
    faiss_search(features, 3, index)
    assert [len(rows) for rows in handed] == [600, 400, 200]
    assert all(np.shares_memory(rows, features.numpy()) for rows in handed)


@pytest.mark.parametrize(
    "number, total, rows", [(5, 10, [0, 2, 4, 6, 8]), (3, 10, [0, 3, 6]), (3, 2, [0, 1])]
)
def test_rows_are_spaced_evenly(number, total, rows):
    assert evenly_spaced(number, total).tolist() == rows


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


BROKEN = [f"raise {kind}('too old')" for kind in ("ImportError", "OSError", "SystemError", "SystemExit")]
NOTHING = "def __getattr__(name): raise AttributeError('too empty')"
OTHER_NUMPY = """
METRIC_INNER_PRODUCT = 0
class index_factory:
    __init__ = lambda *_: None
    def add(self, rows): raise TypeError("too new a NumPy")
"""


@pytest.mark.parametrize("content", [*BROKEN, "import too.old", NOTHING, OTHER_NUMPY])
def test_a_broken_faiss_is_none_and_the_console_says_so_once(content, anew, monkeypatch, capsys, tmp_path):
    (tmp_path / "faiss.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    assert import_faiss() is import_faiss() is None
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "too" in said


def test_a_broken_faiss_is_found_before_training(anew, monkeypatch, capsys, tmp_path):
    (tmp_path / "faiss.py").write_text(BROKEN[0])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    check_before_training(40, 40, 5, "auto", "Flat")
    assert "too old" in capsys.readouterr().out
    with pytest.raises(UserError, match="knn_backend"):
        check_before_training(40, 40, 5, "faiss", "Flat")


VERSIONS = [("1.15.1", 1, True), ("1.14.3", 8, True), ("2.0.0", 1, True), ("1.15.1", 0, False)]
OLD = [("1.14.1.post1", 1, False), ("1.9.0", 1, False)]  # the first is a community build


@pytest.mark.parametrize("version, gpus, usable", VERSIONS + OLD)
def test_faiss_searches_on_a_gpu_only_with_a_recent_gpu_build_and_a_gpu(version, gpus, usable):
    cpu_build = {"__version__": version, "get_num_gpus": lambda: gpus}
    assert faiss_has_gpu(SimpleNamespace(**cpu_build, StandardGpuResources=object)) is usable
    assert not faiss_has_gpu(SimpleNamespace(**cpu_build))
