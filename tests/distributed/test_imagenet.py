"""Images that stay in files, read by several processes: each reads its own rows."""

import shutil

import numpy as np
import pytest

from tests import imagenet_runs
from tests.distributed import stages
from tests.distributed.processes import on_processes
from tests.small_runs import weights, without_pictures


def chain(outside, workers):
    """moco.py, scan.py and selflabel.py on few files; the weights of the last two."""
    stages.in_float64()
    without_pictures(pytest.MonkeyPatch())
    folder = outside / "results" / "imagenet_50"
    for stage in ("moco", "scan", "selflabel"):
        low = "confidence_threshold=0.03" if stage == "selflabel" else ""
        imagenet_runs.run(stage, folder, f"num_workers={workers} {low}")
    states = [weights(folder / stage) for stage in ("scan", "selflabel")]
    return [{name: value.numpy() for name, value in state.items()} for state in states]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_two_processes_end_as_one(workers, tmp_path):
    imagenet_runs.write_files(tmp_path / "1")
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    (one,) = on_processes(1, chain, tmp_path / "1", workers)
    for shared in on_processes(2, chain, tmp_path / "2", workers):
        for state, of_shared in zip(one, shared, strict=True):
            for name, value in state.items():
                np.testing.assert_allclose(of_shared[name], value, rtol=1e-7, atol=1e-9, err_msg=name)
    files = [tmp_path / n / "results/imagenet_50/pretext/topk-train-neighbors.npy" for n in ("1", "2")]
    assert files[0].read_bytes() == files[1].read_bytes()
