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
    places = {"backbone.": "module.encoder_q.", "contrastive_head": "module.encoder_q.fc"}
    for ours, mocos in places.items():
        more |= {k.replace(ours, mocos): v for k, v in model.state_dict().items() if k.startswith(ours)}
    return {"epoch": 800, "arch": "resnet50", "state_dict": more, "optimizer": {"state": {}}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "moco_v2_800ep_pretrain.pth.tar"


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("head, zipped", [("mlp", True), ("linear", False)])  # of MoCo v2 and v1
def test_mocos_query_encoder_is_backbone_and_contrastive_head(head, zipped, path):
    model, loaded = network(head), network(head)
    torch.save(in_moco_form(model), path, _use_new_zipfile_serialization=zipped)
    weights = read_pretrained(path)
    assert (weights.stage, weights.head) == ("pretext", 0)
    load_whole(loaded, weights, path)
    assert same(weights.state, model.state_dict()) and torch.equal(features(loaded), features(model))


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


def test_of_a_plain_backbone_counts_may_be_missing_as_in_old_pytorch_but_nothing_left_over(path):
    model, loaded = network(), network()
    state = model.backbone.state_dict()
    state = {name: value for name, value in state.items() if "num_batches" not in name}
    torch.save(state, path)
    load_whole(loaded, read_pretrained(path), path)
    assert same(loaded.backbone.state_dict(), model.backbone.state_dict())
    torch.save(state | {"fc.0.weight": torch.zeros(16, 16)}, path)
    with pytest.raises(UserError, match=r"backbone\.fc\.0\.weight"):
        load_whole(network(), read_pretrained(path), path)


def test_a_pretext_model_of_ours_is_read_as_it_is(path):
    model = network()
    torch.save(model.state_dict(), path)
    assert same(read_pretrained(path).state, model.state_dict())


CLUSTERING = ClusteringModel(ResNet18("cifar", 2), 5, 1).state_dict()
KEY = {"module.encoder_k.conv1.weight": torch.zeros(1), "module.queue": torch.zeros(1)}


@pytest.mark.parametrize(
    "content, words",
    [
        (in_moco_form(network(), **KEY), "2 encoder_k.conv1.weight queue encoder_q"),
        ({"model": CLUSTERING, "head": 0}, "scan model"),
        (CLUSTERING, "selflabel model"),
        ({"state_dict": {"encoder.0.weight": torch.zeros(1)}}, "encoder.0.weight"),
        ({"state_dict": [1, 2]}, "named weights"),
    ],
    ids=["whole MoCo", "scan", "selflabel", "other names", "list"],
)
def test_anything_else_is_refused_with_what_it_holds(content, words, path):
    torch.save(content, path)
    with pytest.raises(UserError) as error:
        read_pretrained(path)
    message = str(error.value)
    assert all(word in message for word in (str(path), *words.split())) and "\n" not in message
