"""`build_model` gives, from the published YAMLs alone, the networks whose state dicts were published."""

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
        return build_model(load_config(None, f"configs/{path}.yml", overrides))


def names_and_shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def published_backbone(name):
    """As torchvision's without `fc`; the ResNet-18, for 32 and 96 px, with a smaller first layer."""
    tensors = names_and_shapes(getattr(torchvision.models, name)())
    del tensors["fc.weight"], tensors["fc.bias"]
    if name == "resnet18":
        tensors = {name.replace("downsample", "shortcut"): shape for name, shape in tensors.items()}
        tensors["conv1.weight"] = (64, 3, 3, 3)
    return tensors


def linear_of(name, size_in, size_out):
    return {f"{name}.weight": (size_out, size_in), f"{name}.bias": (size_out,)}


def published_model(cfg):
    dim = {"resnet18": 512, "resnet50": 2048}[cfg.backbone]
    tensors = {f"backbone.{name}": shape for name, shape in published_backbone(cfg.backbone).items()}
    if cfg.setup in ("simclr", "moco"):
        return tensors | linear_of("contrastive_head.0", dim, dim) | linear_of("contrastive_head.2", dim, 128)
    for head in range(cfg.num_heads):
        tensors |= linear_of(f"cluster_head.{head}", dim, cfg.num_classes)
    return tensors


@pytest.mark.parametrize("path", PUBLISHED)
def test_the_published_keys_alone_build_the_published_names_and_shapes(path):
    cfg = EasyDict(yaml.safe_load(Path(path).read_text()))  # without the defaults of our own keys
    assert not {"stem", "width"} & cfg.get("model_kwargs", {}).keys()
    with torch.device("meta"):
        for each in (cfg, load_config(None, path)):
            assert names_and_shapes(build_model(each)) == published_model(cfg)


FORMS = {"cifar": (3, nn.Identity), "stl": (3, nn.MaxPool2d), "imagenet": (7, nn.MaxPool2d)}
AUTO, CROP = "model_kwargs.stem=auto", "transformation_kwargs.crop_size"


@pytest.mark.parametrize(
    "path, overrides, stem",
    [
        ("scan/scan_cifar10", [], "cifar"),
        ("selflabel/selflabel_stl10", [], "stl"),
        ("pretext/moco_imagenet50", [], "imagenet"),
        ("scan/scan_cifar10", [f"{CROP}=224"], "cifar"),
        ("scan/scan_imagenet_50", ["model_kwargs.stem=stl"], "stl"),
        ("scan/scan_digits", [AUTO, f"{CROP}=48"], "cifar"),
        ("scan/scan_digits", [AUTO, f"{CROP}=49"], "stl"),
        ("scan/scan_digits", [AUTO, f"{CROP}=128"], "stl"),
        ("scan/scan_digits", [AUTO, f"{CROP}=129"], "imagenet"),
    ],
)
def test_the_stem_follows_the_published_data_set_else_the_crop_size_unless_it_is_named(path, overrides, stem):
    backbone = model_of(path, *overrides).backbone
    assert (backbone.conv1.kernel_size[0], type(backbone.maxpool)) == FORMS[stem]


def test_width_scales_every_stage_of_resnet18():
    model = model_of("scan/scan_cifar10", "model_kwargs.width=16")
    stages = [getattr(model.backbone, f"layer{stage}") for stage in (1, 2, 3, 4)]
    assert [stage[1].conv2.weight.shape[0] for stage in stages] == [16, 32, 64, 128]
    assert model.cluster_head[0].weight.shape == (10, 128)


def test_width_with_resnet50_is_refused_naming_value_and_remedy():
    with pytest.raises(UserError, match=r"model_kwargs\.width 32: .*resnet18"):
        model_of("scan/scan_imagenet_50", "model_kwargs.width=32")


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


def unit_length(features):
    return features / (features**2).sum(dim=1, keepdim=True).sqrt()


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_contrastive_head_is_one_layer_or_linear_relu_linear_and_its_output_of_unit_length(head, images):
    model, features = ContrastiveModel(Pooled(), head, 5).double(), Pooled()(images)
    state = model.state_dict()
    if head == "linear":
        expected = affine(features, state, "contrastive_head")
    else:
        hidden = affine(features, state, "contrastive_head.0").clamp(min=0)
        expected = affine(hidden, state, "contrastive_head.2")
    torch.testing.assert_close(model(images), unit_length(expected))
    assert feature_layer(model, "head") is model
    torch.testing.assert_close(feature_layer(model, "backbone")(images), unit_length(features))


def test_the_layer_of_a_head_that_is_not_there_is_refused_naming_the_key():
    with pytest.raises(UserError, match="feature_layer=backbone"):
        feature_layer(ContrastiveModel(Pooled(), None), "head")


def test_cluster_heads_give_logits_of_the_unnormalised_features_one_tensor_a_head(images):
    model = ClusteringModel(Pooled(), num_clusters=6, num_heads=3).double()
    for head, logits in enumerate(model(images)):
        expected = affine(Pooled()(images), model.state_dict(), f"cluster_head.{head}")  # (4, 6)
        torch.testing.assert_close(logits, expected)
    assert head == 2
