"""Small networks are quickest on one thread, and bit-identical sums need the same number of threads."""

import pytest
import torch

from tests.small_runs import without_pictures

torch.set_num_threads(1)


@pytest.fixture
def no_pictures(monkeypatch):
    without_pictures(monkeypatch)
