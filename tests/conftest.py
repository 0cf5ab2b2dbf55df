"""Small networks are quickest on one thread, and bit-identical sums need the same number of threads."""

import pytest
import torch

from tests.small_runs import SCRIPTS
from utils import mining
from utils.report import outputs as results

torch.set_num_threads(1)


@pytest.fixture
def no_pictures(monkeypatch):
    """Stages that draw none: half the time of a short run."""
    monkeypatch.setattr(mining, "plot_neighbors", lambda *_: None)
    for script in SCRIPTS.values():
        monkeypatch.setattr(script, "plot_curves", lambda *_: None)
        monkeypatch.setattr(script, "plot_matching", lambda *_: None, raising=False)
    monkeypatch.setattr(results, "plot_matching", lambda *_: [])
