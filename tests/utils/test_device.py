import pytest
import torch

from utils.device import choose_device
from utils.errors import UserError


@pytest.mark.parametrize(
    "name, has_cuda, expected",
    [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_the_device_is_the_one_named_and_auto_is_cuda_where_there_is_one(name, has_cuda, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert choose_device(name) == torch.device(expected)


def test_cuda_without_a_device_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"device: cuda .* device=auto or device=cpu"):
        choose_device("cuda")
