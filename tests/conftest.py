"""Small networks are quickest on one thread, and bit-identical sums need the same number of threads."""

import pytest
import torch

from tests.small_runs import draw_nothing

torch.set_num_threads(1)


@pytest.fixture
def no_pictures(monkeypatch):
    draw_nothing(monkeypatch)
