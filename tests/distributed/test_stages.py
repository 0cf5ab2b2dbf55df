"""A stage on several processes ends with the weights, neighbors and figures of one process.

In float64: in float32, rounding moves single units of a network over the kink of a ReLU, and what follows
from that is no fault of the processes."""

import shutil

import numpy as np
import pytest

from tests.distributed import stages
from tests.distributed.processes import on_processes

HEADS = ["num_heads=3", "criterion_kwargs.cluster_prior=[1,1,1,1,1,1,1,1,1,2]"]
CHAIN = {"pretext": [], "scan": HEADS, "selflabel": []}  # on 3 processes 22, 22 and 20 of 64 images
VARIANTS = {
    "frozen backbone": ("scan", ["update_cluster_head_only=True", "num_heads=3"]),
    "cached views": ("scan", ["update_cluster_head_only=True", "cached_views=2"]),
    "unbalanced": ("selflabel", ["criterion_kwargs.apply_class_balancing=False"]),
    "EMA with skipped steps": (
        "selflabel",
        ["use_ema=True", "ema_alpha=0.5", "batch_size=16", "confidence_threshold=0.6"],
    ),
}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The results folder of the chain on one process, and what its stages ended with."""
    root = tmp_path_factory.mktemp("one")
    (found,) = on_processes(1, stages.run, root, CHAIN)
    return root, found


def check_same(first, second):
    for stage, (state, figures) in first.items():
        others, others_figures = second[stage]
        assert state.keys() == others.keys()
        for name, value in state.items():
            np.testing.assert_allclose(others[name], value, rtol=1e-7, atol=1e-9, err_msg=f"{stage} {name}")
        for name in figures.keys() - {"train/images_per_second"}:
            assert others_figures[name] == pytest.approx(figures[name], rel=1e-9), name


def check_chain(number, one, root):
    for found in on_processes(number, stages.run, root, CHAIN):
        check_same(one[1], found)
    for split in ("train", "val"):
        of_one, of_several = (each / f"digits/pretext/topk-{split}-neighbors.npy" for each in (one[0], root))
        assert of_one.read_bytes() == of_several.read_bytes()


def test_two_processes_end_as_one_in_every_stage(one, tmp_path):
    check_chain(2, one, tmp_path)


def test_an_evaluation_says_the_same_whoever_shares_it(one, tmp_path):
    root, (table, shared) = one[0], (tmp_path / "1.csv", tmp_path / "2.csv")
    for stage in ("pretext", "scan"):
        tables = [table, shared] if stage == "scan" else [None, None]
        (figures,) = on_processes(1, stages.evaluate, root, stage, tables[0])
        assert figures and on_processes(2, stages.evaluate, root, stage, tables[1]) == [figures] * 2
    assert table.read_bytes() == shared.read_bytes()


@pytest.mark.slow
def test_so_do_three_though_they_have_unequal_shares(one, tmp_path):
    check_chain(3, one, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_so_they_do_in_every_variant_of_a_stage(variant, number, one, tmp_path):
    stage, settings = VARIANTS[variant]
    found = []
    for processes in (1, number):
        root = tmp_path / str(processes)
        shutil.copytree(one[0], root)
        shutil.rmtree(root / "digits" / stage)
        found += on_processes(processes, stages.run, root, {stage: settings})
    for of_process in found[1:]:
        check_same(found[0], of_process)
    if "skipped" in variant:
        assert 0 < found[0]["selflabel"][1]["train/skipped_steps"] < 12
