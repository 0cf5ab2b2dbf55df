import pytest
import torch
from torch import nn

from utils.errors import UserError
from utils.storage.state_dicts import architecture_of, load_strictly, plain_names


def message_of(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


# -- names


@pytest.mark.parametrize(
    "name",
    [
        "backbone.conv1.weight",
        "module.backbone.conv1.weight",  # DataParallel
        "_orig_mod.backbone.conv1.weight",  # torch.compile
        "module._orig_mod.module.module.backbone.conv1.weight",
        "backbone._orig_mod._orig_mod.conv1.weight",  # a compiled part
    ],
)
def test_what_wrappers_add_to_names_is_removed(name):
    assert plain_names({name: 3}, "FILE") == {"backbone.conv1.weight": 3}


def test_a_module_inside_the_network_keeps_its_name():
    assert plain_names({"backbone.module.weight": 3}, "FILE") == {"backbone.module.weight": 3}


def test_weights_that_a_file_holds_twice_are_refused():
    assert "FILE" in message_of(plain_names, {"weight": 1, "module.weight": 2}, "FILE")


@pytest.mark.parametrize(
    "state", [torch.zeros(3), [1, 2], {1: torch.zeros(2)}], ids=["tensor", "list", "numbers"]
)
def test_a_state_without_names_is_refused(state):
    message = message_of(plain_names, state, "FILE")
    assert "FILE" in message and "model.pth.tar" in message


# -- loading


def linear():
    layer = nn.Linear(3, 2)
    return layer, {name: torch.full_like(value, 7) for name, value in layer.state_dict().items()}


def test_a_state_that_fits_is_loaded():
    layer, state = linear()
    load_strictly(layer, state, "FILE")
    assert (layer.weight == 7).all() and (layer.bias == 7).all()


WRONG = {
    "missing": (lambda state: state.pop("bias"), "missing bias"),
    "left over": (lambda state: state.update(more=torch.zeros(1)), "left over more"),
    "misshapen": (lambda state: state.update(weight=torch.zeros(3, 2)), "weight is (3, 2), expected (2, 3)"),
    "a number": (lambda state: state.update(bias=3), "bias is no dense tensor"),
    "without values": (lambda state: state.update(bias=torch.zeros(2, device="meta")), "bias is no dense"),
    "sparse": (lambda state: state.update(bias=torch.zeros(2).to_sparse()), "bias is no dense tensor"),
    "infinite": (lambda state: state.update(bias=torch.tensor([0, torch.inf])), "bias"),
    "not a number": (lambda state: state.update(bias=torch.tensor([0, torch.nan])), "bias"),
}


@pytest.mark.parametrize("spoil, words", WRONG.values(), ids=WRONG)
def test_a_state_that_does_not_fit_is_refused_naming_the_tensor_and_nothing_is_loaded(spoil, words):
    layer, state = linear()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    spoil(state)
    message = message_of(load_strictly, layer, state, "FILE")
    assert "FILE" in message and words in message
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_a_long_list_of_misfits_is_counted_and_cut_to_the_first_three():
    message = message_of(load_strictly, linear()[0], {name: torch.zeros(1) for name in "abc"}, "FILE")
    assert "missing weight; missing bias; left over a;" in message
    assert "left over b" not in message and "5 of 2" in message


# -- the network that a state dict seems to be of

STEM3, STEM7 = {"backbone.conv1.weight": (2, 3, 3, 3)}, {"conv1.weight": (64, 3, 7, 7)}
MLP = {"contrastive_head.0.weight": (16, 16), "contrastive_head.2.weight": (8, 16)}
LINEAR, ONE_HEAD = {"contrastive_head.weight": (9, 16)}, {"cluster_head.0.weight": (5, 16)}
TEN_HEADS = {f"cluster_head.{head}.weight": (50, 2048) for head in range(10)}


@pytest.mark.parametrize(
    "shapes, words",
    [
        (STEM3 | MLP, "resnet18 of width 2 with a 3 x 3 stem, mlp head of 8"),
        (STEM7 | LINEAR, "resnet18 of width 64 with a 7 x 7 stem, linear head of 9"),
        (STEM3 | ONE_HEAD, "resnet18 of width 2 with a 3 x 3 stem, 1 head of 5 clusters"),
        (
            STEM7 | {"layer1.0.conv3.weight": (256, 64, 1, 1)} | TEN_HEADS,
            "resnet50 with a 7 x 7 stem, 10 heads of 50 clusters",
        ),
        (
            {"conv1.weight": (), "cluster_head": (2, 2)},
            "tensors such as conv1.weight, cluster_head, no tensor",
        ),
        ({}, "tensors such as no tensor"),
    ],
)
def test_a_network_is_recognised_by_its_shapes(shapes, words):
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    assert architecture_of(state | {"no tensor": None}) == words


def test_an_error_names_the_network_of_the_file_and_that_of_the_config():
    file, model = nn.Module(), nn.Module()
    file.conv1, model.conv1 = nn.Conv2d(3, 4, 7, bias=False), nn.Conv2d(3, 6, 3, bias=False)
    message = message_of(load_strictly, model, file.state_dict(), "FILE")
    assert "width 4 with a 7 x 7 stem" in message and "width 6 with a 3 x 3 stem" in message
