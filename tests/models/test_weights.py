"""Weights in files: what is read, what fits, and what is refused."""

import argparse
import io
import os
import pickle
import pickletools
import re
import struct
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from models.backbones.resnet import ResNet18
from models.heads import ClusteringModel, ContrastiveModel
from models.weights import load_backbone, load_best_head, load_whole, read_weights
from utils.errors import RunError, UserError
from utils.storage.files import save_with_manifest
from utils.storage.state_dicts import describe, load_strictly
from utils.storage.torch_files import read_file, read_tensors, to_bytes

CLUSTERS, HEADS = 5, 3
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip format", "legacy format"])


def backbone():
    return ResNet18("cifar", width=2)


NETWORKS = {
    "pretext": lambda: ContrastiveModel(backbone(), "mlp", 8),
    "scan": lambda: ClusteringModel(backbone(), CLUSTERS, HEADS),
    "selflabel": lambda: ClusteringModel(backbone(), CLUSTERS, num_heads=1),
}


@lru_cache
def trained(stage):
    """A network with weights of its own, for reading only."""
    generator, network = torch.Generator().manual_seed(list(NETWORKS).index(stage)), NETWORKS[stage]()
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            value.fill_(7)
        else:
            value.normal_(generator=generator)
        if name.endswith("running_var"):
            value.abs_()
    return network.eval()


def copy_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def clustering():
    return NETWORKS["selflabel"]()


@pytest.fixture
def pretext_state():
    return dict(trained("pretext").state_dict())


@pytest.fixture
def scan_state():
    return dict(trained("scan").state_dict())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pth.tar"


# -- from step 1 to step 2


@FORMATS
def test_load_backbone_takes_every_backbone_tensor_and_leaves_the_heads(
    clustering, pretext_state, path, zipped
):
    torch.save(pretext_state, path, _use_new_zipfile_serialization=zipped)
    heads = copy_of(clustering.cluster_head)
    loaded = load_backbone(clustering, path)
    expected = {name[9:]: value for name, value in pretext_state.items() if name.startswith("backbone.")}
    assert same(copy_of(clustering.backbone), expected)
    assert same(copy_of(clustering.cluster_head), heads)
    assert loaded == len(expected)


def conv1(value):
    return lambda state: state.update({"backbone.conv1.weight": value})


NO_TENSOR = "backbone.conv1.weight is no plain tensor, expected (2, 3, 3, 3)"
WRONG = {
    "missing": (
        lambda state: state.pop("backbone.layer2.0.shortcut.1.running_var"),
        "missing backbone.layer2.0.shortcut.1.running_var",
    ),
    "left over": (
        lambda state: state.update({"backbone.fc.weight": torch.zeros(1)}),
        "left over backbone.fc.weight",
    ),
    "twice, with and without its module": (
        lambda state: state.update({"conv1.weight": torch.zeros(2, 3, 3, 3)}),
        "(1 of 120 tensors): left over conv1.weight;",
    ),
    "misshapen": (
        conv1(torch.zeros(2, 3, 7, 7)),
        "backbone.conv1.weight is (2, 3, 7, 7), expected (2, 3, 3, 3)",
    ),
    "a number": (conv1(3), NO_TENSOR),
    "a list": (conv1([torch.zeros(2, 3, 3, 3)]), NO_TENSOR),
    "a tensor without values": (conv1(torch.zeros(2, 3, 3, 3, device="meta")), NO_TENSOR),
    "a sparse tensor": (conv1(torch.zeros(2, 3, 3, 3).to_sparse()), NO_TENSOR),
    "a complex tensor": (conv1(torch.zeros(2, 3, 3, 3, dtype=torch.complex64)), NO_TENSOR),
}


@pytest.mark.parametrize("case", WRONG)
def test_load_backbone_refuses_what_does_not_fit_naming_it_and_loads_nothing(
    case, clustering, pretext_state, path
):
    spoil, phrase = WRONG[case]
    spoil(pretext_state)
    torch.save(pretext_state, path)
    before = copy_of(clustering)
    with pytest.raises(UserError) as error:
        load_backbone(clustering, path)
    message = str(error.value)
    assert message.startswith(f"{path} does not fit") and "\n" not in message
    assert phrase in message
    assert same(copy_of(clustering), before)


def test_a_long_list_of_misfits_is_counted_and_cut_to_the_first_three(path):
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(UserError) as error:
        load_strictly(layer, {"a": torch.zeros(1), "b": torch.zeros(1), "c": torch.zeros(1)}, path)
    message = str(error.value)
    assert "missing weight; missing bias; left over a;" in message
    assert "left over b" not in message and "(5 of 2 tensors)" in message


# -- from step 2 to step 3


@pytest.mark.parametrize("head", range(HEADS))
def test_load_best_head_takes_that_head_alone_as_the_first(clustering, scan_state, path, head):
    torch.save({"model": scan_state, "head": head}, path)
    assert load_best_head(clustering, path) == head
    expected = {name: value for name, value in scan_state.items() if name.startswith("backbone.")}
    expected |= {
        f"cluster_head.0.{part}": scan_state[f"cluster_head.{head}.{part}"] for part in ("weight", "bias")
    }
    assert same(copy_of(clustering), expected)


def test_load_best_head_refuses_another_number_of_clusters(scan_state, path):
    torch.save({"model": scan_state, "head": 1}, path)
    with pytest.raises(UserError, match=r"cluster_head\.0\.weight is \(5, 16\), expected \(7, 16\)"):
        load_best_head(ClusteringModel(backbone(), num_clusters=7, num_heads=1), path)


# -- which stage a file is from

WITH_CHECKPOINTS = pytest.mark.parametrize("is_checkpoint", [False, True], ids=["model file", "checkpoint"])
SCRIPT_OF = {"pretext": "simclr.py", "scan": "scan.py", "selflabel": "selflabel.py"}


def content_of(stage, state, is_checkpoint):
    """As a stage writes it; the best head of a scan model is number 2."""
    if is_checkpoint:
        best = {"best_loss": -1.5, "best_loss_head": 2} if stage == "scan" else {}
        optimizer = {"state": {}, "param_groups": [{"lr": 0.1}]}
        return {"optimizer": optimizer, "model": state, "epoch": 7, "inputs": {"train images": "e3b0"}} | best
    return {"model": state, "head": 2} if stage == "scan" else state


@WITH_CHECKPOINTS
@pytest.mark.parametrize("wanted", NETWORKS)
@pytest.mark.parametrize("found", NETWORKS)
def test_a_file_is_read_as_its_own_stage_and_refused_as_another_naming_both_and_the_script(
    found, wanted, is_checkpoint, path
):
    torch.save(content_of(found, trained(found).state_dict(), is_checkpoint), path)
    if wanted == found:
        assert read_weights(path, wanted).stage == read_weights(path).stage == found
        return
    with pytest.raises(UserError) as error:
        read_weights(path, wanted)
    message = str(error.value)
    seems = {"pretext": "mlp head of 8", "scan": "3 heads of 5 clusters", "selflabel": "1 head of 5 clusters"}
    assert message.startswith(
        f"{path} is a {found} model, not a {wanted} model (resnet18 of width 2 with a 3 x 3 stem"
    )
    assert f"{seems[found]}): give" in message and message.endswith(f"that {SCRIPT_OF[wanted]} wrote")


def test_a_backbone_alone_is_a_pretext_model(path, pretext_state):
    torch.save({name: value for name, value in pretext_state.items() if name.startswith("backbone.")}, path)
    assert read_weights(path).stage == "pretext"


def test_a_file_of_no_stage_is_named_as_such(path):
    torch.save({"fc1.weight": torch.zeros(1), "fc1.bias": torch.zeros(1)}, path)
    with pytest.raises(
        UserError, match=r"holds no model of ours: .* but tensors such as fc1\.weight, fc1\.bias"
    ):
        read_weights(path)


@WITH_CHECKPOINTS
def test_several_heads_without_a_best_one_are_refused(path, scan_state, is_checkpoint):
    torch.save(content_of("selflabel", scan_state, is_checkpoint), path)
    with pytest.raises(
        UserError, match=r"holds 3 heads and does not say which is the best \(.*3 heads of 5 clusters"
    ):
        read_weights(path)


NO_HEADS = [3, -1, 2.0, "first", True, None, torch.ones(2, 2), ["a\nb"]]  # of a model with 3


@pytest.mark.parametrize("place", ["head", "best_loss_head"])
@pytest.mark.parametrize("head", NO_HEADS, ids=str)
def test_a_head_that_a_scan_model_does_not_have_is_a_users_mistake(path, scan_state, head, place):
    torch.save(content_of("scan", scan_state, is_checkpoint=place == "best_loss_head") | {place: head}, path)
    with pytest.raises(UserError) as error:
        read_weights(path)
    shown = "tensor([[1., 1.], [1., 1.]])" if isinstance(head, torch.Tensor) else repr(head)
    assert f"names head {shown} as its best, but holds 3 heads" in str(error.value) and "\n" not in str(
        error.value
    )


# -- the forms in which a model comes

PREFIXES = {
    "none": lambda name: name,
    "DataParallel": lambda name: f"module.{name}",
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "both, in either order": lambda name: f"module._orig_mod.module.module.{name}",
    "compiled parts": lambda name: re.sub(r"(backbone|\.1)\.", r"\1._orig_mod._orig_mod.", name),
}
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def outputs(network):
    """(heads, B, K), or (1, B, D) of a pretext model."""
    result = network.eval()(IMAGES)
    return torch.stack(result if isinstance(result, list) else [result])


@lru_cache
@torch.no_grad()
def expected_outputs(stage):
    """Those of the network before it was saved, worked out from its backbone's features."""
    network = trained(stage)
    state, features = network.state_dict(), network.backbone(IMAGES)

    def linear(inputs, layer):
        return inputs @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]

    if stage != "pretext":
        return torch.stack(
            [linear(features, f"cluster_head.{head}") for head in range(len(network.cluster_head))]
        )
    projected = linear(linear(features, "contrastive_head.0").clamp(min=0), "contrastive_head.2")
    return (projected / projected.square().sum(dim=1, keepdim=True).sqrt())[None]


@FORMATS
@WITH_CHECKPOINTS
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("stage", NETWORKS)
def test_every_form_of_a_model_gives_the_outputs_of_the_network_that_was_saved(
    stage, prefix, is_checkpoint, zipped, path
):
    wrapped = {PREFIXES[prefix](name): value for name, value in trained(stage).state_dict().items()}
    torch.save(content_of(stage, wrapped, is_checkpoint), path, _use_new_zipfile_serialization=zipped)
    weights = read_weights(path, stage)
    form = "checkpoint after epoch 7" if is_checkpoint else "model file"
    assert (weights.head, weights.form) == (2 if stage == "scan" else 0, form)
    loaded = NETWORKS[stage]()
    said = load_whole(loaded, weights, path)
    assert (
        said == f"loaded 120 of 120 backbone tensors from {path} ({form})"
    )  # 20 convolutions, 20 norms of 5
    torch.testing.assert_close(outputs(loaded), expected_outputs(stage))


@WITH_CHECKPOINTS
def test_the_next_stage_starts_with_the_backbones_features_and_the_best_heads_logits(
    path, clustering, is_checkpoint
):
    for stage, load in {"pretext": load_backbone, "scan": load_best_head}.items():
        network = trained(stage)
        wrapped = {f"module.{name}": value for name, value in network.state_dict().items()}
        torch.save(content_of(stage, wrapped, is_checkpoint), path)
        load(clustering, path)
        assert torch.equal(clustering.eval().backbone(IMAGES), network.backbone(IMAGES))
    torch.testing.assert_close(outputs(clustering)[0], expected_outputs("scan")[2])


def test_a_pretext_model_without_a_head_gives_unit_length_backbone_features(path):
    network = trained("pretext")
    torch.save({f"backbone.{name}": value for name, value in network.backbone.state_dict().items()}, path)
    loaded = NETWORKS["pretext"]()
    load_whole(loaded, read_weights(path, "pretext"), path)
    features = network.backbone(IMAGES)
    torch.testing.assert_close(
        outputs(loaded)[0], features / features.square().sum(dim=1, keepdim=True).sqrt()
    )


def test_weights_that_stand_twice_in_a_file_are_refused(path, pretext_state):
    torch.save(pretext_state | {"module.backbone.conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"holds weights twice \(backbone\.conv1\.weight\)"):
        read_weights(path)


# -- numbers of NumPy, and what passes for one; the pickles are written by hand

HERE, PICKLED_HERE = 54321, b"M\x31\xd4"  # stands in a content where a piece is to go
LOSS, PICKLED_LOSS = -1.5, b"G\xbf\xf8\x00\x00\x00\x00\x00\x00"
LETTERS = {b"i4": "i", b"i8": "q", b"f4": "f", b"f8": "d"}
PLAIN = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"  # None, None, None, -1, -1, 0: nothing but a number
FALSE_TRUE, ZERO_ONE = b"\x89\x88", b"K\x00K\x01"
NUMPYS = {"NumPy 1.16": (b"numpy.core", ZERO_ONE), "NumPy 1": (b"numpy.core", FALSE_TRUE)}
NUMPYS |= {"NumPy 2": (b"numpy._core", FALSE_TRUE)}


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def dtype(kind, flags=FALSE_TRUE):
    """numpy.dtype(kind, False, True)"""
    return b"cnumpy\ndtype\n" + text(kind) + flags + b"\x87R"


def scalar(dtype, content, package=b"numpy._core"):
    """numpy.core.multiarray.scalar(dtype, content)"""
    encoded = b"c_codecs\nencode\n" + text(content.decode("latin1").encode()) + text(b"latin1") + b"\x86R"
    return b"c" + package + b".multiarray\nscalar\n" + dtype + encoded + b"\x86R"


def number(value, kind, package=b"numpy._core", flags=FALSE_TRUE, order=b"<", state=PLAIN):
    """The dtype gets the state (3, order, *state)."""
    described = dtype(kind, flags) + b"(K\x03" + text(order) + state + b"tb"
    return scalar(described, struct.pack(order.decode() + LETTERS[kind], value), package)


def save_with(content, path, zipped, pieces):
    """Save with pieces of the pickle, each there once, replaced by others."""

    def replaced(pickled):
        for old, new in pieces.items():
            assert pickled.count(old) == 1
            pickled = pickled.replace(old, new)
        return pickled

    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if not zipped:
        path.write_bytes(replaced(path.read_bytes()))
        return
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, replaced(part) if name.endswith("/data.pkl") else part)


@pytest.mark.parametrize("value", [np.int32(2), np.int64(-3), np.float32(0.5), np.float64(-1.5)], ids=repr)
def test_the_numbers_by_hand_are_those_that_numpy_writes(value):
    package = b"numpy._core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else b"numpy.core"
    by_hand = number(value.item(), value.dtype.str[1:].encode(), package)
    assert pickletools.optimize(pickle.dumps(value, protocol=2)) == b"\x80\x02" + by_hand + b"."


@FORMATS
@WITH_CHECKPOINTS
@pytest.mark.parametrize("kind", [b"i4", b"i8"])
@pytest.mark.parametrize("numpy", NUMPYS)
def test_the_best_head_and_its_loss_may_be_numbers_of_any_numpy(numpy, kind, is_checkpoint, zipped, path):
    content = content_of("scan", trained("scan").state_dict(), is_checkpoint)
    pieces = {PICKLED_HERE: number(2, kind, *NUMPYS[numpy])}
    if is_checkpoint:
        pieces[PICKLED_LOSS] = number(LOSS, kind.replace(b"i", b"f"), *NUMPYS[numpy])
    save_with(content | {"best_loss_head" if is_checkpoint else "head": HERE}, path, zipped, pieces)
    assert b"c" + NUMPYS[numpy][0] + b".multiarray\nscalar\n" in path.read_bytes()
    weights = read_weights(path, "scan")
    assert (weights.head, type(weights.head)) == (2, int)
    assert read_tensors(path).get("best_loss", LOSS) == LOSS
    loaded = NETWORKS["selflabel"]()
    assert load_best_head(loaded, path) == 2
    torch.testing.assert_close(outputs(loaded)[0], expected_outputs("scan")[2])


@FORMATS
@pytest.mark.parametrize("kind, value", [(b"i4", -2), (b"i8", 2**40), (b"f4", 0.75), (b"f8", 0.1)])
@pytest.mark.parametrize("order", [b"<", b">"])
def test_a_number_of_numpy_is_read_as_a_plain_one(kind, value, order, zipped, path):
    save_with({"value": HERE}, path, zipped, {PICKLED_HERE: number(value, kind, order=order)})
    read = read_tensors(path)["value"]
    assert (read, type(read)) == (value, type(value))


NDARRAY = b"cnumpy\nndarray\n"
ABUSES = {
    "a dtype of objects": dtype(b"O8"),
    "an object": scalar(dtype(b"O8"), b""),
    "a whole dtype of objects": dtype(b"O8")
    + b"(K\x03"
    + text(b"|")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb",
    "raw memory": scalar(dtype(b"V8"), b"8 bytes."),
    "a date": scalar(dtype(b"M8"), bytes(8)),
    "a record": scalar(b"cnumpy\ndtype\n]" + text(b"x") + dtype(b"i8") + b"\x86a\x85R", bytes(8)),
    "an integer of too few bytes": number(0, b"i8").replace(text(bytes(8)), text(bytes(7))),
    "an integer that claims to be an array": number(
        0, b"i8", state=dtype(b"i8") + b"M\xe8\x03\x85\x86NNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"
    ),
    "an integer that claims to be a pointer": number(0, b"i8", state=PLAIN[:-1] + b"\x04"),
    "a dtype's class": b"cnumpy.dtypes\nInt64DType\n)R",
    "an array": b"cnumpy._core.multiarray\n_reconstruct\n" + NDARRAY + b"K\x00\x85" + text(b"b") + b"\x87R",
    "an array of NumPy 1": b"cnumpy.core.multiarray\n_reconstruct\n"
    + NDARRAY
    + b"K\x00\x85"
    + text(b"b")
    + b"\x87R",
    "another function": b"cnumpy._core.multiarray\nfrombuffer\n" + text(b"i8") + b"\x85R",
    "the loader": b"cnumpy\nload\n" + text(b"/dev/null") + b"\x85R",
}


@FORMATS
@pytest.mark.parametrize("abuse", ABUSES)
def test_of_numpy_only_four_kinds_of_numbers_are_read(abuse, path, zipped, scan_state):
    pickletools.dis(b"\x80\x02" + ABUSES[abuse] + b".", io.StringIO())  # raises if it is no pickle at all
    save_with({"model": scan_state, "head": HERE}, path, zipped, {PICKLED_HERE: ABUSES[abuse]})
    with pytest.raises(UserError, match=r"cannot be read: .* nothing in it was run"):
        read_file(path)


@pytest.mark.parametrize("what", [np.array([1.0]), np.datetime64("2020-01-01"), np.str_("text")], ids=repr)
def test_other_things_of_numpy_are_refused(what, path, scan_state):
    torch.save({"model": scan_state, "head": what}, path)
    with pytest.raises(UserError, match="cannot be read"):
        read_file(path)


# -- what a file seems to be


@pytest.mark.parametrize(
    "network, words",
    [
        (
            lambda: ContrastiveModel(ResNet18("stl", 2), "mlp", 8),
            "resnet18 of width 2 with a 3 x 3 stem, mlp head of 8",
        ),
        (
            lambda: ContrastiveModel(ResNet18("imagenet", 4), "linear", 9),
            "width 4 with a 7 x 7 stem, linear head of 9",
        ),
        (lambda: ClusteringModel(ResNet18("cifar", 2), 5, 3), "with a 3 x 3 stem, 3 heads of 5 clusters"),
        (lambda: ClusteringModel(ResNet18("cifar", 2), 5, 1), "with a 3 x 3 stem, 1 head of 5 clusters"),
    ],
)
def test_the_error_says_what_the_file_seems_to_be_and_what_was_asked_for(network, words, path):
    assert describe(network().state_dict()).endswith(words)
    model = ContrastiveModel(ResNet18("cifar", 6), "mlp", 8)
    with pytest.raises(UserError) as error:
        load_strictly(model, network().state_dict(), path)
    message = str(error.value)
    assert words in message and "asks for resnet18 of width 6 with a 3 x 3 stem, mlp head of 8" in message


def test_resnet50_with_ten_heads_is_named_so():
    shapes = {"backbone.conv1.weight": (64, 3, 7, 7), "backbone.layer1.0.conv3.weight": (256, 64, 1, 1)}
    shapes |= {f"cluster_head.{head}.weight": (50, 2048) for head in range(10)}
    state = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    assert describe(state) == "resnet50 with a 7 x 7 stem, 10 heads of 50 clusters"


@pytest.mark.parametrize(
    "state, words",
    [
        ({}, "tensors such as none at all"),
        ({"conv1.weight": "text", 3: None, "a": 1, "b": 2}, "tensors such as conv1.weight, 3, a"),
        (
            {"conv1.weight": torch.zeros(()), "cluster_head": torch.zeros(2, 2)},
            "tensors such as conv1.weight, cluster_head",
        ),
        (
            {"conv1.weight": torch.zeros(2, 3, 3, 3), "cluster_head": None},
            "resnet18 of width 2 with a 3 x 3 stem",
        ),
        ({"conv1.weight": torch.zeros(2, 3, 3, 3, device="meta")}, "tensors such as conv1.weight"),
    ],
    ids=["nothing", "no tensors", "scalar", "no head", "no values"],
)
def test_rubbish_is_described_too(state, words):
    assert describe(state) == words


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_tensor_without_one_shape_is_described_too():
    ragged = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    assert describe({"conv1.weight": ragged}) == "tensors such as conv1.weight"


# -- files that cannot be read


def test_a_missing_file_is_named(path):
    with pytest.raises(UserError, match=re.escape(f"{path} not found")):
        read_weights(path)


def test_a_file_that_its_record_says_is_damaged_is_refused(path, pretext_state):
    save_with_manifest(path, to_bytes(pretext_state), {})
    assert read_weights(path).stage == "pretext"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        RunError, match=re.escape(f"{path} ({len(content)} bytes) is damaged or another file")
    ):
        read_weights(path)


@FORMATS
def test_what_was_saved_on_a_gpu_is_read_onto_the_cpu(path, zipped):
    save_with({"weight": torch.ones(3)}, path, zipped, {text(b"cpu"): text(b"cuda:0")})
    weight = read_tensors(path)["weight"]
    assert weight.device.type == "cpu" and weight.tolist() == [1, 1, 1]


def saved_bytes(path, zipped):
    torch.save({"weight": torch.zeros(1000)}, path, _use_new_zipfile_serialization=zipped)
    return path.read_bytes()


SPOILED = {
    "zero bytes": lambda path: b"",
    "text": lambda path: b"no weights",
    "half of a zip file": lambda path: saved_bytes(path, True)[:2000],
    "half of a legacy file": lambda path: saved_bytes(path, False)[:2000],
    "the first bytes of a legacy file": lambda path: saved_bytes(path, False)[:10],
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_file_is_named_with_its_size_in_one_line(case, path):
    content = SPOILED[case](path)
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_file(path)
    message = str(error.value)
    assert str(path) in message and f"({len(content)} bytes)" in message and "\n" not in message


class Calls:
    """Unpickling one calls a function."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        function, *arguments = self.call
        return function, tuple(arguments)


class SetsState:
    """Unpickling one runs a method of its class."""

    def __init__(self, marker):
        self.marker = marker

    def __setstate__(self, state):
        state["marker"].touch()


CODE = {  # unpickling it makes the file `marker`
    "method": lambda marker: Calls(Path.touch, marker),
    "eval": lambda marker: Calls(eval, f"open({str(marker)!r}, 'w').close()"),
    "shell": lambda marker: Calls(os.system, f"touch '{marker}'"),
    "state of a class": SetsState,
}


@FORMATS
@pytest.mark.parametrize("code", CODE)
def test_code_in_a_weight_file_is_refused_and_never_run(code, zipped, path, tmp_path, pretext_state):
    marker = tmp_path / "it ran"
    content = pretext_state | {"code": CODE[code](marker)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError) as error:
        read_weights(path)
    message = str(error.value)
    assert str(path) in message and "nothing in it was run" in message and "\n" not in message
    assert "weights_only" not in message and "trust" not in message and "safe_globals" not in message
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file is harmless, so the test shows nothing"


@FORMATS
def test_the_settings_of_another_program_are_refused(zipped, path, pretext_state):
    content = {"model": pretext_state, "optimizer": {}, "epoch": 3, "args": argparse.Namespace(lr=0.1)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"holds more than tensors and plain values"):
        read_weights(path)


NAMELESS = {
    "tensor": torch.zeros(3),
    "list": [1, 2],
    "number keys": {1: torch.zeros(2)},
    "two lines": {"backbone.\nconv1": torch.zeros(1)},
    "a tensor for the model": {"model": torch.zeros(3), "head": 0},
    "a list for the model": {"model": [1, 2], "optimizer": {}},
    "number keys in the model": {"model": {1: torch.zeros(2)}, "head": 0},
}


@pytest.mark.parametrize("content", NAMELESS.values(), ids=NAMELESS)
def test_a_file_that_holds_no_named_weights_is_a_users_mistake(path, content):
    torch.save(content, path)
    with pytest.raises(UserError) as error:
        read_weights(path, "pretext")
    message = str(error.value)
    assert message.startswith(f"{path} holds no named weights") and "\n" not in message
    assert message.endswith("give a model.pth.tar")
