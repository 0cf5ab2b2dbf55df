"""Small networks are quickest on one thread, and bit-identical sums need the same number of threads."""

import pytest
import torch

from tests.small_runs import SCRIPTS, few_digits, run_stage, without_pictures

torch.set_num_threads(1)


@pytest.fixture
def no_pictures(monkeypatch):
    without_pictures(monkeypatch)


@pytest.fixture
def small_data(no_pictures, monkeypatch):
    few_digits(monkeypatch)


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory):
    """ImageNet-50 in small, and MoCo's file; moco.py and scan.py have been run. Tests leave all as it is."""
    from tests import imagenet_runs  # torchvision takes long

    outside = tmp_path_factory.mktemp("imagenet")
    imagenet_runs.write_files(outside)
    with pytest.MonkeyPatch.context() as monkeypatch:
        without_pictures(monkeypatch)
        for stage in ("moco", "scan"):
            imagenet_runs.run(stage, outside / "results" / "imagenet_50")
    return outside


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of each stage after one whole run on few digits, with pictures. Tests leave it as it is."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as monkeypatch:
        few_digits(monkeypatch)
        return {stage: run_stage(stage, root) for stage in SCRIPTS}
