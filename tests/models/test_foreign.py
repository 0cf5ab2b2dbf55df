"""Backbones of others as pretext models."""

import pytest
import torch

from models.backbones.resnet import ResNet18
from models.foreign import read_pretrained
from models.heads import ClusteringModel, ContrastiveModel
from models.weights import load_whole
from utils.errors import UserError


def network(head="mlp"):
    return ContrastiveModel(ResNet18("cifar", 2), head, 8)


def features(model):
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return model.eval()(images)


def in_moco_form(model, **more):
    """As MoCo's training saves it: the query encoder under `module.encoder_q`, its head as `fc`."""
    state = {
        "module.encoder_q." + name.removeprefix("backbone.").replace("contrastive_head", "fc"): value
        for name, value in model.state_dict().items()
    }
    return {"epoch": 800, "arch": "resnet50", "state_dict": state | more, "optimizer": {"state": {}}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "moco_v2_800ep_pretrain.pth.tar"


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip format", "legacy format"])
@pytest.mark.parametrize("head", ["mlp", "linear"])  # of MoCo v2 and v1
def test_mocos_query_encoder_is_backbone_and_contrastive_head(head, zipped, path):
    model, loaded = network(head), network(head)
    torch.save(in_moco_form(model), path, _use_new_zipfile_serialization=zipped)
    weights = read_pretrained(path)
    assert (weights.stage, weights.head) == ("pretext", 0)
    load_whole(loaded, weights, path)
    assert same(weights.state, model.state_dict()) and torch.equal(features(loaded), features(model))


def test_a_moco_file_with_more_than_the_query_encoder_is_refused_naming_the_rest(path):
    rest = {"module.encoder_k.conv1.weight": torch.zeros(1), "module.queue": torch.zeros(1)}
    torch.save(in_moco_form(network(), **rest), path)
    with pytest.raises(UserError, match=r" 2 .*encoder_k\.conv1\.weight, queue"):
        read_pretrained(path)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("place", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
def test_a_plain_backbone_is_a_pretext_model_without_a_head_nor_its_classifier(prefix, place, path):
    model, loaded = network(), network()
    plain = {f"{prefix}{name}": value for name, value in model.backbone.state_dict().items()}
    classifier = {f"{prefix}fc.weight": torch.zeros(1000, 16), f"{prefix}fc.bias": torch.zeros(1000)}
    torch.save(place(plain | classifier), path)
    load_whole(loaded, read_pretrained(path), path)
    assert same(loaded.backbone.state_dict(), model.backbone.state_dict())
    pooled = features(model.backbone)
    torch.testing.assert_close(features(loaded), pooled / pooled.square().sum(dim=1, keepdim=True).sqrt())


def test_files_of_old_pytorch_need_no_count_of_batches(path):
    model, loaded = network(), network()
    state = model.backbone.state_dict()
    torch.save({name: value for name, value in state.items() if "num_batches" not in name}, path)
    load_whole(loaded, read_pretrained(path), path)
    assert same(loaded.backbone.state_dict(), state)


def test_of_a_plain_backbone_only_the_classifier_is_left_out(path):
    torch.save(network().backbone.state_dict() | {"fc.0.weight": torch.zeros(16, 16)}, path)
    with pytest.raises(UserError, match=r"left over backbone\.fc\.0\.weight"):
        load_whole(network(), read_pretrained(path), path)


def test_a_pretext_model_of_ours_is_read_as_it_is(path):
    model = network()
    torch.save(model.state_dict(), path)
    assert same(read_pretrained(path).state, model.state_dict())


def clustering(num_heads):
    return ClusteringModel(ResNet18("cifar", 2), 5, num_heads).state_dict()


@pytest.mark.parametrize(
    "content, words",
    [
        (lambda: {"model": clustering(2), "head": 0}, "scan model"),
        (lambda: clustering(1), "selflabel model"),
        (lambda: {"state_dict": {"encoder.0.weight": torch.zeros(1)}}, "encoder.0.weight"),
        (lambda: {"state_dict": [1, 2]}, "named weights"),
    ],
    ids=["scan", "selflabel", "other names", "list"],
)
def test_anything_else_is_refused_with_what_it_seems_to_be(content, words, path):
    torch.save(content(), path)
    with pytest.raises(UserError) as error:
        read_pretrained(path)
    assert str(path) in str(error.value) and words in str(error.value) and "\n" not in str(error.value)
