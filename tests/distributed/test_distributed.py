"""What the processes of a run tell each other. One process needs nobody: each function gives back its own."""

import os

import numpy as np
import pytest
import torch
from easydict import EasyDict
from torch import nn

from data.augment import val_transform
from data.dataset import ResidentDataset
from data.loader import build_loader
from losses import ConfidenceBasedCE, SCANLoss, SimCLRLoss
from models.batch_norm import GlobalBatchNorm, over_all_processes
from tests.distributed.processes import on_processes
from tests.distributed.stages import in_float64
from utils import distributed
from utils.errors import UserError
from utils.features import evaluating, extract_features

ROWS = 8  # on three processes 3, 3 and 2


def rows_of(values):
    return values[distributed.share_of(len(values))]


def told():
    """What one process gets from each function, by the function's name."""
    found = {"share_of": [len(range(64)[distributed.share_of(64, process)]) for process in range(3)]}
    mine = rows_of(torch.arange(ROWS * 2.0).view(ROWS, 2)).requires_grad_()
    whole = distributed.gather(mine)
    (whole * torch.arange(ROWS)[:, None]).sum().backward()
    found["gather"], found["gradient"] = whole.tolist(), mine.grad.tolist()
    found["gather, dim 1"] = distributed.gather(rows_of(torch.arange(ROWS))[None], dim=1).tolist()
    weight, other = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(1))
    weight.grad = torch.full((2, 2), 1.0 + distributed.rank())
    distributed.sum_gradients([weight, other])
    found["sum_gradients"] = weight.grad.tolist(), other.grad
    found["agree"] = distributed.agree(10 * distributed.rank())
    found["from_main"] = distributed.from_main(lambda: (distributed.world_size(), os.environ.get("RANK")))
    found["everywhere_equal"] = [distributed.everywhere_equal(each) for each in ("same", distributed.rank())]
    found["main_only"] = distributed.main_only(lambda: "said")()
    return found


def test_one_process_has_all_rows_and_gets_its_own_values():
    assert told() == {
        "share_of": [64, 0, 0],
        "gather": [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], [12, 13], [14, 15]],
        "gradient": [[row, row] for row in range(8)],
        "gather, dim 1": [[0, 1, 2, 3, 4, 5, 6, 7]],
        "sum_gradients": ([[1, 1], [1, 1]], None),
        "agree": 0,
        "from_main": (1, None),
        "everywhere_equal": [True, True],
        "main_only": "said",
    }


def test_three_processes_get_the_rows_sums_and_values_of_all():
    first, second, third = on_processes(3, told)
    for each in (first, second, third):
        assert each["share_of"] == [22, 22, 20]
        assert each["gather"] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], [12, 13], [14, 15]]
        assert each["gather, dim 1"] == [[0, 1, 2, 3, 4, 5, 6, 7]]
        assert each["sum_gradients"] == ([[6, 6], [6, 6]], None)  # 1 + 2 + 3
        assert each["agree"] == 20
        assert each["from_main"] == (1, "0")  # it ran as if alone, in the main process
        assert each["everywhere_equal"] == [True, False]
    assert [each["gradient"] for each in (first, second, third)] == [
        [[0, 0], [1, 1], [2, 2]],
        [[3, 3], [4, 4], [5, 5]],
        [[6, 6], [7, 7]],
    ]
    assert [each["main_only"] for each in (first, second, third)] == ["said", None, None]


def failing(function):
    """The error that one process ends with where the main process, or the first of a machine, fails."""

    def fail():
        raise UserError(f"of {distributed.rank()}")

    try:
        function(fail)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("function", [distributed.from_main, distributed.first_on_machine])
def test_all_processes_get_the_error_of_one(function):
    assert on_processes(2, failing, function) == ["of 0", "of 0"]


def order_of(path):
    def note():
        with open(path, "a") as file:
            file.write(f"{distributed.local_rank()}\n")
        return path.read_text()[0]

    return distributed.first_on_machine(note)


def test_one_process_of_a_machine_comes_first_and_each_gets_its_own_result(tmp_path):
    assert on_processes(3, order_of, tmp_path / "order") == ["0", "0", "0"]
    lines = (tmp_path / "order").read_text().split()
    assert lines[0] == "0" and sorted(lines) == ["0", "1", "2"]


# -- a batch that processes share


def losses():
    """Losses and gradients of all three stages on 8 rows of logits or features, in float64."""
    in_float64()
    generator = torch.Generator().manual_seed(0)
    found = []
    for name, shape, dim in (
        ("simclr", (ROWS, 2, 5), 0),
        ("scan", (3, ROWS, 4), 1),
        ("selflabel", (ROWS, 4), 0),
    ):
        values = [torch.randn(shape, generator=generator) for _ in range(2)]
        own = distributed.share_of(ROWS)
        own = [(each[own] if dim == 0 else each[:, own]).clone().requires_grad_() for each in values]
        first, second = (distributed.gather(each, dim=dim) for each in own)
        loss = {
            "simclr": lambda first=first: SimCLRLoss(0.5)(first),
            "scan": lambda first=first, second=second: SCANLoss(5, [1, 2, 3, 4])(first, second).total.sum(),
            "selflabel": lambda first=first, second=second: ConfidenceBasedCE(0.5, True)(first, second).loss,
        }[name]()
        loss.backward()
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in own]
        found += [loss.detach(), *(distributed.gather(each, dim=dim) for each in gradients)]
    return [each.numpy() for each in found]


def test_the_loss_of_a_shared_batch_and_its_gradient_are_those_of_the_whole_one():
    (whole,) = on_processes(1, losses)
    for shared in on_processes(3, losses):
        for expected, found in zip(whole, shared, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def normalized(dtype):
    """Outputs, gradients and running statistics of a batch norm on 10 rows, by name."""
    generator = torch.Generator().manual_seed(0)
    images, wanted = (torch.randn(10, 3, 4, 5, generator=generator, dtype=dtype) for _ in range(2))
    network = nn.Sequential(nn.BatchNorm2d(3)).to(dtype)
    nn.init.uniform_(network[0].weight, 0.5, 2, generator=generator)
    network = over_all_processes(network)
    mine = rows_of(images + 3).requires_grad_()
    outputs = network(mine)
    ((outputs - rows_of(wanted)) ** 3).sum().backward()
    distributed.sum_gradients(network.parameters())
    values = {"outputs": distributed.gather(outputs), "gradient": distributed.gather(mine.grad)}
    values |= {f"{name}.grad": each.grad for name, each in network.named_parameters()}
    values |= network.state_dict()
    kind = isinstance(network[0], GlobalBatchNorm)
    return kind, {name: value.detach().double().numpy() for name, value in values.items()}


# fp32: the sums of 200 cubes are rounded in another order
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_batch_norm_over_processes_with_unequal_shares_is_that_of_the_whole_batch(dtype, tolerance):
    kind, whole = normalized(dtype)
    assert not kind  # PyTorch's own in one process
    for kind, shared in on_processes(3, normalized, dtype):
        assert kind and shared.keys() == whole.keys()
        for name, value in whole.items():
            np.testing.assert_allclose(shared[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


def statistics_of_main():
    """The running mean that one process has before and in an evaluation, with a batch norm per process."""
    network = nn.BatchNorm2d(1, momentum=1.0)
    network(torch.full((2, 1, 1, 1), float(distributed.rank())))
    before = network.running_mean.item()
    with evaluating(network):
        return before, network.running_mean.item()


def test_an_evaluation_uses_the_main_processs_statistics_where_each_has_its_own():
    assert on_processes(2, statistics_of_main) == [(0, 0), (1, 0)]


# -- what the processes read

PLAIN = val_transform(EasyDict(crop_size=4, normalize={"mean": [0.5] * 3, "std": [0.5] * 3}))


def numbered(count):
    """Images of which each has its own number as colour."""
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 3, 4, 4).contiguous()
    return ResidentDataset(images, None, [])


def batches(batch_size, train):
    loader = build_loader(numbered(10), [PLAIN], batch_size, train=train)
    return [batch.index.tolist() for batch in loader]


def test_processes_share_the_rows_of_the_batches_of_one_process():
    whole = batches(4, True)
    shares = on_processes(2, batches, 4, True)
    assert [first + second for first, second in zip(*shares, strict=True)] == whole


def test_a_share_without_an_image_is_refused():
    for fault in on_processes(3, refused, 4):
        assert "batch_size" in fault


def refused(batch_size):
    try:
        batches(batch_size, True)
    except UserError as error:
        return str(error)


def test_outside_of_training_batches_are_shared_out_whole_and_the_last_is_repeated():
    assert on_processes(2, batches, 4, False) == [[[0, 1, 2, 3], [8, 9]], [[4, 5, 6, 7], [8, 9]]]


def features_of(batch_size):
    loader = build_loader(numbered(10), [PLAIN], batch_size)
    return extract_features(nn.Flatten(), loader).tolist()


@pytest.mark.parametrize("batch_size", [3, 16])
def test_features_are_those_of_one_process_in_the_order_of_the_images(batch_size):
    assert on_processes(2, features_of, batch_size) == [features_of(batch_size)] * 2
