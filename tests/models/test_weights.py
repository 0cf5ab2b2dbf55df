import re
from pathlib import Path

import numpy as np
import pytest
import torch

from models.heads import ClusteringModel, ContrastiveModel
from models.resnet import ResNet18
from models.weights import describe, load_backbone, load_best_head, load_strictly, load_whole, read_file, read_weights
from utils.errors import UserError

CLUSTERS, HEADS = 5, 3
LEGACY = {"_use_new_zipfile_serialization": False}  # the form of most published files


def backbone():
    return ResNet18("cifar", width=2)


def state_of(model, seed):
    """The model's names with values of their own."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else torch.tensor(seed)
        for name, value in model.state_dict().items()
    }


def copy_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def clustering():
    return ClusteringModel(backbone(), CLUSTERS, num_heads=1)


@pytest.fixture
def pretext_state():
    return state_of(ContrastiveModel(backbone(), "mlp", 8), seed=3)


@pytest.fixture
def scan_state():
    return state_of(ClusteringModel(backbone(), CLUSTERS, HEADS), seed=4)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pth.tar"


# -- from step 1 to step 2


@pytest.mark.parametrize("zipped", [True, False], ids=["zip format", "legacy format"])
def test_load_backbone_takes_every_backbone_tensor_and_leaves_the_heads(clustering, pretext_state, path, zipped):
    torch.save(pretext_state, path, _use_new_zipfile_serialization=zipped)
    heads = copy_of(clustering.cluster_head)
    loaded = load_backbone(clustering, path)
    expected = {name[9:]: value for name, value in pretext_state.items() if name.startswith("backbone.")}
    assert same(copy_of(clustering.backbone), expected)
    assert same(copy_of(clustering.cluster_head), heads)
    assert loaded == len(expected)


WRONG = {
    "missing": (
        lambda state: state.pop("backbone.layer2.0.shortcut.1.running_var"),
        ["missing layer2.0.shortcut.1.running_var"],
    ),
    "left over": (lambda state: state.update({"backbone.fc.weight": torch.zeros(1)}), ["left over fc.weight"]),
    "misshapen": (
        lambda state: state.update({"backbone.conv1.weight": torch.zeros(2, 3, 7, 7)}),
        ["conv1.weight is (2, 3, 7, 7), expected (2, 3, 3, 3)"],
    ),
    "no tensor": (
        lambda state: state.update({"backbone.conv1.weight": 3}),
        ["conv1.weight is no tensor, expected (2, 3, 3, 3)"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_load_backbone_refuses_what_does_not_fit_naming_it_and_loads_nothing(case, clustering, pretext_state, path):
    spoil, phrases = WRONG[case]
    spoil(pretext_state)
    torch.save(pretext_state, path)
    before = copy_of(clustering)
    with pytest.raises(UserError) as error:
        load_backbone(clustering, path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    assert all(phrase in message for phrase in phrases)
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
    expected |= {f"cluster_head.0.{part}": scan_state[f"cluster_head.{head}.{part}"] for part in ("weight", "bias")}
    assert same(copy_of(clustering), expected)


def test_load_best_head_refuses_another_number_of_clusters(scan_state, path):
    torch.save({"model": scan_state, "head": 1}, path)
    with pytest.raises(UserError, match=r"cluster_head\.0\.weight is \(5, 16\), expected \(7, 16\)"):
        load_best_head(ClusteringModel(backbone(), num_clusters=7, num_heads=1), path)


# -- which stage a file is from


CONTENTS = {
    "pretext": lambda: state_of(ContrastiveModel(backbone(), "linear", 8), seed=0),
    "scan": lambda: {"model": state_of(ClusteringModel(backbone(), CLUSTERS, HEADS), seed=0), "head": 2},
    "selflabel": lambda: state_of(ClusteringModel(backbone(), CLUSTERS, num_heads=1), seed=0),
}
MADE_BY = {"pretext": "simclr.py", "scan": "scan.py", "selflabel": "selflabel.py"}


@pytest.mark.parametrize("stage", CONTENTS)
def test_a_model_file_tells_its_stage_and_is_read_as_that_stage(stage, path):
    content = CONTENTS[stage]()
    torch.save(content, path)
    assert read_weights(path).stage == stage
    assert read_weights(path, stage).state.keys() == content.get("model", content).keys()


@pytest.mark.parametrize("wanted, found", [(a, b) for a in CONTENTS for b in CONTENTS if a != b])
def test_a_model_of_another_stage_is_refused_naming_path_both_stages_and_the_script(wanted, found, path):
    torch.save(CONTENTS[found](), path)
    with pytest.raises(UserError) as error:
        read_weights(path, wanted)
    message = str(error.value)
    assert message.startswith(f"{path} is a {found} model, not a {wanted} model")
    assert f"that {MADE_BY[wanted]} wrote" in message


# -- the forms in which a model comes


def save_named_as(module, content, path):
    """Save with NumPy's scalars named as NumPy 1 (`numpy.core`) or NumPy 2 (`numpy._core`) did."""
    torch.save(content, path, **LEGACY)
    pickled, count = re.subn(
        rb"cnumpy\._?core\.multiarray\nscalar\n", b"c%s.multiarray\nscalar\n" % module, path.read_bytes()
    )
    assert count == 1
    path.write_bytes(pickled)


HEAD_FORMS = {
    "int": lambda path, content: torch.save(content, path),
    "zip format": lambda path, content: torch.save(content | {"head": np.int64(2)}, path),
    "32 bits": lambda path, content: torch.save(content | {"head": np.int32(2)}, path),
    "NumPy 1": lambda path, content: save_named_as(b"numpy.core", content | {"head": np.int64(2)}, path),
    "NumPy 2": lambda path, content: save_named_as(b"numpy._core", content | {"head": np.int64(2)}, path),
}


@pytest.mark.parametrize("form", HEAD_FORMS)
def test_the_best_head_may_be_a_number_of_either_numpy(form, path, scan_state):
    HEAD_FORMS[form](path, {"model": scan_state, "head": 2})
    weights = read_weights(path, "scan")
    assert (weights.head, type(weights.head), weights.form) == (2, int, "model file")
    assert same(weights.state, scan_state)


PREFIXES = {
    "none": lambda name: name,
    "DataParallel": lambda name: f"module.{name}",
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "both": lambda name: f"_orig_mod.module.{name}",
    "both, the other way": lambda name: f"module._orig_mod.{name}",
    "a compiled backbone": lambda name: name.replace("backbone.", "backbone._orig_mod."),
}


def checkpoint_of(state, **more):
    """As the published stages write it."""
    return {"optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "model": state, "epoch": 7, **more}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("stage", ["pretext", "scan", "selflabel"])
@pytest.mark.parametrize("is_checkpoint", [False, True], ids=["model file", "checkpoint"])
def test_model_files_and_checkpoints_are_read_whatever_wrapped_the_model(stage, prefix, is_checkpoint, path):
    content = CONTENTS[stage]()
    plain = content.get("model", content)
    wrapped = {PREFIXES[prefix](name): value for name, value in plain.items()}
    if is_checkpoint:
        best = {"best_loss": np.float64(-1.5), "best_loss_head": np.int64(2)} if stage == "scan" else {}
        torch.save(checkpoint_of(wrapped, **best), path, **LEGACY)
    else:
        torch.save({"model": wrapped, "head": 2} if stage == "scan" else wrapped, path)
    weights = read_weights(path, stage)
    assert same(weights.state, plain)
    assert weights.head == (2 if stage == "scan" else 0)
    assert weights.form == ("checkpoint after epoch 7" if is_checkpoint else "model file")


def test_the_logits_are_those_of_the_network_that_was_saved(path):
    network = ClusteringModel(backbone(), CLUSTERS, HEADS)
    network.load_state_dict(state_of(network, seed=5))
    for value in network.buffers():
        value.copy_(value.abs())  # variances
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    features = network.eval().backbone(images)
    expected = [features @ head.weight.T + head.bias for head in network.cluster_head]
    wrapped = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"model": wrapped, "head": np.int64(1)}, path, **LEGACY)
    loaded = ClusteringModel(backbone(), CLUSTERS, HEADS).eval()
    said = load_whole(loaded, read_weights(path), path)
    assert said == f"loaded 120 of 120 backbone tensors from {path} (model file)"  # 20 convolutions, 20 norms of 5
    for logits, wanted in zip(loaded(images), expected, strict=True):
        assert torch.allclose(logits, wanted, atol=1e-4)


def test_a_pretext_model_without_a_head_gives_unit_length_backbone_features(path):
    network = ContrastiveModel(backbone(), "mlp", 8)
    state = {name: value for name, value in network.state_dict().items() if name.startswith("backbone.")}
    torch.save(state, path)
    loaded = ContrastiveModel(backbone(), "mlp", 8)
    load_whole(loaded, read_weights(path, "pretext"), path)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    features = network.eval().backbone(images)
    assert torch.allclose(loaded.eval()(images), features / features.norm(dim=1, keepdim=True), atol=1e-6)


def test_weights_that_stand_twice_in_a_file_are_refused(path, pretext_state):
    torch.save(pretext_state | {"module.backbone.conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="holds weights twice"):
        read_weights(path)


def test_several_heads_without_a_best_one_are_refused(path, scan_state):
    torch.save(checkpoint_of(scan_state), path)
    with pytest.raises(UserError, match="holds 3 heads and does not say which is the best"):
        read_weights(path)


@pytest.mark.parametrize(
    "network, words",
    [
        (
            lambda: ContrastiveModel(ResNet18("stl", 2), "mlp", 8),
            "resnet18 of width 2 with a 3 x 3 stem, mlp head of 8",
        ),
        (lambda: ContrastiveModel(ResNet18("imagenet", 4), "linear", 9), "width 4 with a 7 x 7 stem, linear head of 9"),
        (lambda: ClusteringModel(ResNet18("cifar", 2), 5, 3), "with a 3 x 3 stem, 3 heads of 5 clusters"),
    ],
)
def test_the_error_says_what_the_file_seems_to_be_and_what_was_asked_for(network, words, path):
    assert describe(network().state_dict()).endswith(words)
    model = ContrastiveModel(ResNet18("cifar", 6), "mlp", 8)
    with pytest.raises(UserError) as error:
        load_strictly(model, network().state_dict(), path)
    assert words in str(error.value) and "asks for resnet18 of width 6 with a 3 x 3 stem, mlp head of 8" in str(
        error.value
    )


# -- files that cannot be read


def test_a_missing_file_is_named(path):
    with pytest.raises(UserError, match=re.escape(f"{path} not found")):
        read_file(path)


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


class Malicious:
    """Unpickling one makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip format", "legacy format"])
def test_code_in_a_weight_file_is_refused_and_never_run(path, tmp_path, zipped):
    marker = tmp_path / "it ran"
    torch.save({"model": Malicious(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=re.escape(str(path))):
        read_file(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file is harmless, so the test shows nothing"


class Calls:
    """Unpickling one calls a function."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        function, *arguments = self.call
        return function, tuple(arguments)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip format", "legacy format"])
@pytest.mark.parametrize(
    "what",
    [
        np.array([1.0]),
        np.array([object], dtype=object),
        np.datetime64("2020-01-01"),
        np.str_("text"),
        Calls(np.frombuffer, b"12345678"),
        Calls(eval, "1 + 1"),
        Calls(getattr, "text", "upper"),
    ],
    ids=["array", "objects", "date", "text", "function of NumPy", "eval", "getattr"],
)
def test_of_numpy_only_plain_numbers_are_read(what, path, zipped, scan_state):
    torch.save({"model": scan_state, "head": what}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"cannot be read: .* nothing in it was run"):
        read_file(path)


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {1: 2}], ids=["tensor", "list", "number keys"])
def test_a_file_that_holds_no_named_weights_is_a_users_mistake(tmp_path, content):
    torch.save(content, tmp_path / "model.pth.tar")
    with pytest.raises(UserError, match=r"model\.pth\.tar holds no named weights"):
        read_weights(tmp_path / "model.pth.tar", "pretext")


def test_a_file_of_no_stage_is_named_as_such(path):
    torch.save({"fc1.weight": torch.zeros(1), "fc1.bias": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"holds no model of ours: .* but tensors such as fc1\.weight, fc1\.bias"):
        read_weights(path)


def test_a_best_head_that_is_not_in_the_file_is_a_users_mistake(tmp_path):
    model = ClusteringModel(ResNet18("cifar", 2), 5, num_heads=1)
    torch.save({"model": model.state_dict(), "head": 3}, tmp_path / "model.pth.tar")
    with pytest.raises(UserError, match=r"head 3 .* holds 1 heads"):
        load_best_head(model, tmp_path / "model.pth.tar")


@pytest.mark.parametrize("head", [1, -1, "first", True, None])
def test_a_head_that_a_scan_model_does_not_have_is_a_users_mistake(path, head):
    content = {"model": ClusteringModel(ResNet18("cifar", 2), 5, num_heads=1).state_dict(), "head": head}
    torch.save(content, path)
    with pytest.raises(UserError, match=rf"names head {head!r} as its best, but holds 1 heads"):
        read_weights(path)


def test_the_refusal_of_a_file_with_code_gives_no_advice_to_load_it_anyway(tmp_path):
    class Foreign:
        def __reduce__(self):
            return Path.cwd, ()

    torch.save({"a": Foreign()}, tmp_path / "model.pth.tar")
    with pytest.raises(UserError) as error:
        read_file(tmp_path / "model.pth.tar")
    assert "weights_only" not in str(error.value) and "trust" not in str(error.value)
