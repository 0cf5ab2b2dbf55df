import re
from pathlib import Path

import pytest
import torch

from models.heads import ClusteringModel, ContrastiveModel
from models.resnet import ResNet18
from models.weights import load_backbone, load_best_head, load_strictly, read_file, read_model, stage_of
from utils.errors import UserError

CLUSTERS, HEADS = 5, 3


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
    "prefixed": (
        lambda state: state.update({"module.backbone.conv1.weight": state.pop("backbone.conv1.weight")}),
        ["missing conv1.weight", "left over module.backbone.conv1.weight"],
    ),
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
    assert stage_of(content, path) == stage
    assert read_model(path, stage).keys() == content.keys()


@pytest.mark.parametrize("wanted, found", [(a, b) for a in CONTENTS for b in CONTENTS if a != b])
def test_a_model_of_another_stage_is_refused_naming_path_both_stages_and_the_script(wanted, found, path):
    torch.save(CONTENTS[found](), path)
    with pytest.raises(UserError) as error:
        read_model(path, wanted)
    message = str(error.value)
    assert message.startswith(f"{path} is a {found} model, not a {wanted} model")
    assert f"that {MADE_BY[wanted]} wrote" in message


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


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {1: 2}], ids=["tensor", "list", "number keys"])
def test_a_file_that_holds_no_named_weights_is_a_users_mistake(tmp_path, content):
    torch.save(content, tmp_path / "model.pth.tar")
    with pytest.raises(UserError, match=r"model\.pth\.tar holds no named weights"):
        read_model(tmp_path / "model.pth.tar", "pretext")


def test_a_file_of_no_stage_and_a_checkpoint_are_named_as_such(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "model.pth.tar")
    with pytest.raises(UserError, match=r"model\.pth\.tar holds no model of ours"):
        read_model(tmp_path / "model.pth.tar", "pretext")
    torch.save({"model": {}, "optimizer": {}, "epoch": 1}, tmp_path / "model.pth.tar")
    with pytest.raises(UserError, match=r"model\.pth\.tar is a checkpoint"):
        read_model(tmp_path / "model.pth.tar", "pretext")


def test_a_best_head_that_is_not_in_the_file_is_a_users_mistake(tmp_path):
    model = ClusteringModel(ResNet18("cifar", 2), 5, num_heads=1)
    torch.save({"model": model.state_dict(), "head": 3}, tmp_path / "model.pth.tar")
    with pytest.raises(UserError, match=r"head 3 .* holds 1 heads"):
        load_best_head(model, tmp_path / "model.pth.tar")


@pytest.mark.parametrize("head", [1, -1, "first", True, None])
def test_a_head_that_a_scan_model_does_not_have_is_a_users_mistake(path, head):
    content = {"model": ClusteringModel(ResNet18("cifar", 2), 5, num_heads=1).state_dict(), "head": head}
    with pytest.raises(UserError, match=rf"names head {head!r} as its best, but holds 1 heads"):
        stage_of(content, path)


def test_the_refusal_of_a_file_with_code_gives_no_advice_to_load_it_anyway(tmp_path):
    class Foreign:
        def __reduce__(self):
            return Path.cwd, ()

    torch.save({"a": Foreign()}, tmp_path / "model.pth.tar")
    with pytest.raises(UserError) as error:
        read_file(tmp_path / "model.pth.tar")
    assert "weights_only" not in str(error.value) and "trust" not in str(error.value)
