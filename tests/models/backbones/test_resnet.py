"""ResNet-18 and ResNet-50 against arXiv:1512.03385 (table 1, figure 2), in the forms that SCAN published."""

import math

import pytest
import torch
import torchvision
from torch import nn

from models.backbones.resnet import ResNet18, resnet50


def on_meta(build, *arguments):
    """The network without memory or arithmetic: names and shapes alone."""
    with torch.device("meta"):
        return build(*arguments)


@pytest.mark.parametrize(
    "stem, size, pool",
    [("imagenet", 64, None), ("cifar", 16, nn.Identity()), ("stl", 32, nn.MaxPool2d(2, 2, 1))],
)
def test_resnet18_is_torchvisions_with_the_published_stem_in_its_place(stem, size, pool):
    torch.manual_seed(0)
    model, expected = ResNet18(stem).double(), torchvision.models.resnet18()
    expected.fc = nn.Identity()
    if pool:
        expected.conv1, expected.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), pool
    for parameter in model.parameters():  # no term may be 0 or 1 by initialisation
        nn.init.normal_(parameter, std=0.5)
    state = {name.replace("shortcut", "downsample"): value for name, value in model.state_dict().items()}
    expected.double().load_state_dict(state)
    images = torch.randn(3, 3, size, size, dtype=torch.float64)
    torch.testing.assert_close(model(images), expected(images), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "build, stem, pixels, sizes",
    [
        (ResNet18, "cifar", 32, [32, 32, 16, 8, 4]),
        (ResNet18, "stl", 96, [49, 49, 25, 13, 7]),
        (ResNet18, "imagenet", 224, [56, 56, 28, 14, 7]),
        (resnet50, "imagenet", 224, [56, 56, 28, 14, 7]),
        (resnet50, "cifar", 32, [32, 32, 16, 8, 4]),
        (resnet50, "stl", 96, [49, 49, 25, 13, 7]),
    ],
)
def test_feature_maps_have_the_published_sides_after_stem_and_stages(build, stem, pixels, sizes):
    model, seen = on_meta(build, stem), []
    for module in (model.maxpool, model.layer1, model.layer2, model.layer3, model.layer4):
        module.register_forward_hook(lambda module, arguments, output: seen.append(output.shape[2:]))
    model(torch.empty(2, 3, pixels, pixels, device="meta"))
    assert seen == [(size, size) for size in sizes]


@pytest.mark.parametrize("build, dim", [(ResNet18, 512), (resnet50, 2048)])
@pytest.mark.parametrize("pixels", [64, 160])
def test_features_are_one_row_an_image_whatever_its_size(build, dim, pixels):
    model, images = on_meta(build, "stl"), torch.empty(3, 3, pixels, pixels, device="meta")
    assert model(images).shape == (3, model.features_dim) == (3, dim)


@pytest.mark.parametrize("build", [ResNet18, resnet50])
def test_convolutions_start_kaiming_normal_by_fan_out_and_batch_norms_at_1_and_0(build):
    torch.manual_seed(0)
    model = build("stl")
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            weight, count = module.weight.detach(), module.weight.numel()
            std = math.sqrt(2 / (module.out_channels * module.kernel_size[0] * module.kernel_size[1]))
            assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * count)), name
            assert weight.mean().item() == pytest.approx(0, abs=5 * std / math.sqrt(count)), name
            assert weight.abs().max() > 2.5 * std, f"{name} is not normal: a uniform one ends at 1.73 std"
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all(), name
            assert (module.running_mean == 0).all() and (module.running_var == 1).all(), name
            assert (module.eps, module.momentum) == (1e-5, 0.1), name
