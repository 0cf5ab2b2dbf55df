"""Weights from files: of which stage they are, and what each stage starts from."""

from functools import lru_cache

import pytest
import torch

from models.backbones.resnet import ResNet18
from models.heads import ClusteringModel, ContrastiveModel
from models.weights import load_backbone, load_best_head, load_whole, read_weights
from utils.errors import UserError
from utils.stages import SCRIPT_OF

HEADS, BEST = 3, 2
WITH_CHECKPOINTS = pytest.mark.parametrize("is_checkpoint", [False, True], ids=["model file", "checkpoint"])
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def clustering_model(num_heads):
    return ClusteringModel(ResNet18("cifar", width=2), 5, num_heads)


NETWORKS = {
    "pretext": lambda: ContrastiveModel(ResNet18("cifar", width=2), "mlp", 8),
    "scan": lambda: clustering_model(HEADS),
    "selflabel": lambda: clustering_model(1),
}


@lru_cache
def trained(stage):
    """A network with weights of its own, for reading only."""
    torch.manual_seed(list(NETWORKS).index(stage))
    network = NETWORKS[stage]()
    for name, value in network.state_dict().items():
        value.random_(1, 8) if name.endswith(("running_var", "num_batches_tracked")) else value.normal_()
    return network.eval()


def content_of(stage, state, is_checkpoint=False):
    """As a stage writes it."""
    if is_checkpoint:
        best = {"best_loss_head": BEST} if stage == "scan" else {}
        return {"optimizer": {"state": {}}, "model": state, "epoch": 7} | best
    return {"model": state, "head": BEST} if stage == "scan" else state


@pytest.fixture
def clustering():
    return NETWORKS["selflabel"]()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pth.tar"


@torch.no_grad()
def outputs(network):
    """(heads, B, K), or (1, B, D) of a pretext model."""
    result = network.eval()(IMAGES)
    return torch.stack(result if isinstance(result, list) else [result])


@WITH_CHECKPOINTS
@pytest.mark.parametrize("zipped, prefix", [(True, ""), (False, "module.")])
@pytest.mark.parametrize("stage", NETWORKS)
def test_every_form_of_a_model_gives_the_outputs_of_the_network_that_was_saved(
    stage, prefix, is_checkpoint, zipped, path
):
    wrapped = {prefix + name: value for name, value in trained(stage).state_dict().items()}
    torch.save(content_of(stage, wrapped, is_checkpoint), path, _use_new_zipfile_serialization=zipped)
    weights, loaded = read_weights(path, stage), NETWORKS[stage]()
    assert weights.head == (BEST if stage == "scan" else 0)
    assert f" {len(wrapped)} " in load_whole(loaded, weights, path)
    assert torch.equal(outputs(loaded), outputs(trained(stage)))


def test_scan_starts_with_the_backbone_of_the_pretext_model_and_heads_of_its_own(clustering, path):
    torch.save(trained("pretext").state_dict(), path)
    head = clustering.cluster_head[0].weight.clone()
    assert "120" in load_backbone(clustering, path)  # tensors: 20 convolutions, 20 batch norms of 5
    assert torch.equal(clustering.eval().backbone(IMAGES), trained("pretext").backbone(IMAGES))
    assert torch.equal(clustering.cluster_head[0].weight, head)


@WITH_CHECKPOINTS
@pytest.mark.parametrize("head", range(HEADS))
def test_self_labelling_starts_with_the_best_head_of_scan_alone(clustering, path, head, is_checkpoint):
    content = content_of("scan", trained("scan").state_dict(), is_checkpoint)
    torch.save(content | {"best_loss_head" if is_checkpoint else "head": head}, path)
    assert str(head) in load_best_head(clustering, path)
    features = trained("scan").backbone(IMAGES)
    assert torch.equal(clustering.eval().backbone(IMAGES), features)
    assert torch.equal(clustering.cluster_head[0](features), trained("scan").cluster_head[head](features))


@pytest.mark.parametrize("load, stage", [(load_backbone, "pretext"), (load_best_head, "scan")])
def test_a_file_that_lacks_a_tensor_is_refused(load, stage, clustering, path):
    state = dict(trained(stage).state_dict())
    del state["backbone.bn1.bias"]
    torch.save(content_of(stage, state), path)
    with pytest.raises(UserError, match=r"backbone\.bn1\.bias"):
        load(clustering, path)


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
    words = (str(path), f"{found} model", f"{wanted} model", SCRIPT_OF[wanted])
    assert all(word in str(error.value) for word in words)


def test_a_file_of_no_stage_is_named_with_what_it_holds(path):
    torch.save({"fc1.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"model\.pth\.tar .*fc1\.weight"):
        read_weights(path)


@pytest.mark.parametrize("is_checkpoint, place", [(False, "head"), (True, "best_loss_head")])
@pytest.mark.parametrize("head", [3, -1, 2.0, "first", True, None], ids=str)
def test_a_best_head_that_a_scan_model_does_not_have_or_none_is_refused(path, head, is_checkpoint, place):
    content = content_of("scan", trained("scan").state_dict(), is_checkpoint)
    torch.save(content | {place: head}, path)
    with pytest.raises(UserError) as error:
        read_weights(path)
    assert all(word in str(error.value) for word in (str(path), f"{head!r}", "scan.py"))
