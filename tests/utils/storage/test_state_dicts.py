import pytest
import torch
from torch import nn

from utils.errors import UserError
from utils.storage.state_dicts import load_strictly, plain_names


def message_of(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments, "FILE")
    assert "FILE" in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "name, plain",
    [
        ("backbone.conv1.weight", "backbone.conv1.weight"),
        ("module.conv1.weight", "conv1.weight"),  # DataParallel
        ("_orig_mod.conv1.weight", "conv1.weight"),  # torch.compile
        ("module._orig_mod.module.module.conv1.weight", "conv1.weight"),
        ("backbone._orig_mod._orig_mod.conv1.weight", "backbone.conv1.weight"),  # a compiled part
        ("backbone.module.weight", "backbone.module.weight"),  # a module inside the network
    ],
)
def test_what_wrappers_add_to_names_is_removed(name, plain):
    assert plain_names({name: 3}, "FILE") == {plain: 3}


@pytest.mark.parametrize("state", [torch.zeros(3), {1: 2}, {"weight": 1, "module.weight": 2}], ids=str)
def test_a_state_without_names_or_with_one_twice_is_refused(state):
    message_of(plain_names, state)


def linear():
    layer = nn.Linear(3, 2)
    return layer, {name: torch.full_like(value, 7) for name, value in layer.state_dict().items()}


def test_a_state_that_fits_is_loaded_and_the_number_of_its_tensors_said():
    layer, state = linear()
    assert " 2 " in load_strictly(layer, state, "FILE")
    assert (layer.weight == 7).all() and (layer.bias == 7).all()


WRONG = {
    "missing": (lambda state: state.pop("bias"), "bias is missing"),
    "left over": (lambda state: state.update(more=torch.zeros(1)), "more is (1,)"),
    "misshapen": (lambda state: state.update(weight=torch.zeros(3, 2)), "weight is (3, 2), expected (2, 3)"),
    "a number": (lambda state: state.update(bias=3), "bias"),
    "without values": (lambda state: state.update(bias=torch.zeros(2, device="meta")), "bias"),
    "sparse": (lambda state: state.update(bias=torch.zeros(2).to_sparse()), "bias"),
    "infinite": (lambda state: state.update(bias=torch.tensor([0, torch.inf])), "bias"),
    "not a number": (lambda state: state.update(bias=torch.tensor([0, torch.nan])), "bias"),
}


@pytest.mark.parametrize("spoil, words", WRONG.values(), ids=WRONG)
def test_a_state_that_does_not_fit_is_refused_naming_the_tensor_and_nothing_is_loaded(spoil, words):
    layer, state = linear()
    spoil(state)
    assert words in message_of(load_strictly, layer, state)
    assert not (layer.weight == 7).any() and not (layer.bias == 7).any()


def test_a_long_list_of_misfits_is_counted_and_cut_to_the_first_three():
    message = message_of(load_strictly, linear()[0], {name: torch.zeros(1) for name in "abc"})
    assert all(word in message for word in ("(5 ", "weight is", "bias is", "a is")) and "b is" not in message
