"""`build_model` gives, from the published YAMLs alone, the networks whose state dicts were published."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from easydict import EasyDict
from torch import nn

from models import build_model
from models.heads import ClusteringModel, ContrastiveModel, feature_layer
from utils.config import load_config
from utils.errors import UserError

ROOT = Path(__file__).parents[2]
NORM = ("weight", "bias", "running_mean", "running_var")
SMALL, IMAGENET = ("cifar10", "cifar20", "stl10"), ("imagenet_50", "imagenet_100", "imagenet_200")
PUBLISHED = [
    *(f"configs/pretext/simclr_{name}.yml" for name in SMALL),
    *(f"configs/pretext/moco_{name.replace('_', '')}.yml" for name in IMAGENET),
    *(f"configs/{stage}/{stage}_{name}.yml" for stage in ("scan", "selflabel") for name in SMALL + IMAGENET),
    "configs/scan/imagenet_eval.yml",
]


def model_of(path, *overrides):
    """The network on the meta device: names and shapes alone."""
    with torch.device("meta"):
        return build_model(load_config(None, path, overrides))


def names_and_shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def norm_of(name, channels):
    return {f"{name}.{part}": (channels,) for part in NORM} | {f"{name}.num_batches_tracked": ()}


def published_resnet18():
    """Names and shapes of the published ResNet-18, for 32 and for 96 px alike."""
    tensors, before = {"conv1.weight": (64, 3, 3, 3)} | norm_of("bn1", 64), 64
    for stage, channels in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            tensors |= {f"{name}.conv1.weight": (channels, before, 3, 3)} | norm_of(f"{name}.bn1", channels)
            tensors |= {f"{name}.conv2.weight": (channels, channels, 3, 3)} | norm_of(f"{name}.bn2", channels)
            if stage > 1 and block == 0:
                tensors |= {f"{name}.shortcut.0.weight": (channels, before, 1, 1)}
                tensors |= norm_of(f"{name}.shortcut.1", channels)
            before = channels
    return tensors


def published_resnet50():
    with torch.device("meta"):
        tensors = names_and_shapes(torchvision.models.resnet50())
    return {name: shape for name, shape in tensors.items() if not name.startswith("fc.")}


def linear_of(name, size_in, size_out):
    return {f"{name}.weight": (size_out, size_in), f"{name}.bias": (size_out,)}


def published_model(cfg):
    published = {"resnet18": (published_resnet18, 512), "resnet50": (published_resnet50, 2048)}
    backbone, dim = published[cfg.backbone]
    tensors = {f"backbone.{name}": shape for name, shape in backbone().items()}
    if cfg.setup in ("simclr", "moco"):
        return tensors | linear_of("contrastive_head.0", dim, dim) | linear_of("contrastive_head.2", dim, 128)
    for head in range(cfg.num_heads):
        tensors |= linear_of(f"cluster_head.{head}", dim, cfg.num_classes)
    return tensors


@pytest.mark.parametrize("path", PUBLISHED)
def test_the_published_keys_alone_build_the_published_names_and_shapes(path):
    cfg = EasyDict(yaml.safe_load((ROOT / path).read_text()))  # without the defaults of our own keys
    assert not {"stem", "width"} & cfg.get("model_kwargs", {}).keys()
    with torch.device("meta"):
        assert names_and_shapes(build_model(cfg)) == published_model(cfg)
    assert names_and_shapes(model_of(path)) == published_model(cfg)


def test_models_are_imported_without_torchvision_which_takes_long():
    code = "import sys, models, models.weights, models.foreign; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# -- the form of the first layers

FORMS = {"cifar": (3, nn.Identity), "stl": (3, nn.MaxPool2d), "imagenet": (7, nn.MaxPool2d)}
AUTO = "model_kwargs.stem=auto"


@pytest.mark.parametrize(
    "path, overrides, stem",
    [
        ("scan/scan_cifar10", [], "cifar"),
        ("selflabel/selflabel_stl10", [], "stl"),
        ("pretext/moco_imagenet50", [], "imagenet"),
        ("scan/scan_cifar10", ["transformation_kwargs.crop_size=224"], "cifar"),
        ("scan/scan_stl10", ["transformation_kwargs.crop_size=32"], "stl"),
        ("scan/scan_cifar10", ["model_kwargs.stem=imagenet"], "imagenet"),
        ("scan/scan_imagenet_50", ["model_kwargs.stem=stl"], "stl"),
        ("scan/scan_digits", [AUTO], "cifar"),
        ("scan/scan_digits", [AUTO, "transformation_kwargs.crop_size=48"], "cifar"),
        ("scan/scan_digits", [AUTO, "transformation_kwargs.crop_size=49"], "stl"),
        ("scan/scan_digits", [AUTO, "transformation_kwargs.crop_size=128"], "stl"),
        ("scan/scan_digits", [AUTO, "transformation_kwargs.crop_size=129"], "imagenet"),
    ],
)
def test_the_stem_follows_the_published_data_set_else_the_crop_size_unless_it_is_named(path, overrides, stem):
    backbone = model_of(f"configs/{path}.yml", *overrides).backbone
    assert (backbone.conv1.kernel_size[0], type(backbone.maxpool)) == FORMS[stem]


def test_width_scales_every_stage_of_resnet18():
    model = model_of("configs/scan/scan_cifar10.yml", "model_kwargs.width=16")
    stages = [getattr(model.backbone, f"layer{stage}") for stage in (1, 2, 3, 4)]
    assert [stage[1].conv2.weight.shape[0] for stage in stages] == [16, 32, 64, 128]
    assert model.cluster_head[0].weight.shape == (10, 128)


def test_width_with_resnet50_is_refused_naming_value_and_remedy():
    with pytest.raises(UserError, match=r"model_kwargs\.width 32: .*resnet18"):
        model_of("configs/scan/scan_imagenet_50.yml", "model_kwargs.width=32")


@pytest.mark.parametrize("layer, size", [("head", 128), ("backbone", 512)])
def test_a_model_up_to_a_layer_says_the_size_of_its_unit_length_features(layer, size):
    model = feature_layer(build_model(load_config(None, "configs/pretext/simclr_cifar10.yml")), layer)
    features = model(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, model.features_dim) == (2, size)
    torch.testing.assert_close(features.square().sum(dim=1), torch.ones(2))


def test_the_layer_of_a_head_that_was_dropped_is_refused_naming_the_key():
    model = ContrastiveModel(Pooled(), "mlp", 5)
    model.drop_head()
    with pytest.raises(UserError, match="feature_layer=backbone"):
        feature_layer(model, "head")
    assert model.features_dim == 3


# -- heads


class Pooled(nn.Module):
    """A backbone of three features: the mean of each channel."""

    features_dim = 3

    def forward(self, images):
        return images.mean(dim=(2, 3))


@pytest.fixture
def images():
    return torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def affine(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def by_hand(head, features, state):
    if head == "linear":
        return affine(features, state, "contrastive_head")
    return affine(affine(features, state, "contrastive_head.0").clamp(min=0), state, "contrastive_head.2")


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_contrastive_head_is_one_layer_or_linear_relu_linear_and_its_output_of_unit_length(head, images):
    model = ContrastiveModel(Pooled(), head, 5).double()
    expected = by_hand(head, Pooled()(images), model.state_dict())
    torch.testing.assert_close(model(images), expected / (expected**2).sum(dim=1, keepdim=True).sqrt())


def test_cluster_heads_give_logits_of_the_unnormalised_features_one_tensor_a_head(images):
    model = ClusteringModel(Pooled(), num_clusters=6, num_heads=3).double()
    logits = model(images)
    assert [head.shape for head in logits] == [(4, 6)] * 3
    for head in range(3):
        expected = affine(Pooled()(images), model.state_dict(), f"cluster_head.{head}")
        torch.testing.assert_close(logits[head], expected)


def test_layers_of_heads_start_as_pytorchs_each_with_its_own_draw():
    first, second = ClusteringModel(Pooled(), num_clusters=100, num_heads=2).cluster_head
    bound = 1 / math.sqrt(3)  # of nn.Linear's uniform draw from 3 features
    assert 0.9 * bound < first.weight.abs().max() <= bound and 0.9 * bound < first.bias.abs().max() <= bound
    assert not torch.equal(first.weight, second.weight)
