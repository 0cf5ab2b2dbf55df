"""ResNet-18 and ResNet-50 against arXiv:1512.03385 (table 1, figure 2), in the forms that SCAN published."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.backbones.resnet import ResNet18, resnet50


def on_meta(build, *arguments):
    """The network without memory or arithmetic: names and shapes alone."""
    with torch.device("meta"):
        return build(*arguments)


def randomised(model):
    """Every parameter drawn anew, so that no term of a forward pass is 0 or 1 by initialisation."""
    torch.manual_seed(0)
    for parameter in model.double().parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def batch_norm(x, weights, name):
    """Train mode: mean and biased variance of the batch, epsilon 1e-5."""
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    scale, shift = weights[f"{name}.weight"].view(1, -1, 1, 1), weights[f"{name}.bias"].view(1, -1, 1, 1)
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def forward_by_hand(x, weights, stem):
    """ResNet-18 written out: images (B, 3, H, W) to the last feature map (B, D, h, w)."""

    def convolution(x, name, stride, padding):
        return F.conv2d(x, weights[f"{name}.weight"], stride=stride, padding=padding)

    stems = {"cifar": (1, 1, None), "stl": (1, 1, (2, 2, 1)), "imagenet": (2, 3, (3, 2, 1))}
    stride, padding, pool = stems[stem]
    x = batch_norm(convolution(x, "conv1", stride, padding), weights, "bn1").relu()
    if pool:
        kernel, stride, padding = pool
        x = F.max_pool2d(x, kernel, stride=stride, padding=padding)
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            out = batch_norm(convolution(x, f"{name}.conv1", stride, 1), weights, f"{name}.bn1").relu()
            out = batch_norm(convolution(out, f"{name}.conv2", 1, 1), weights, f"{name}.bn2")
            if stage > 1 and block == 0:
                shortcut = convolution(x, f"{name}.shortcut.0", stride, 0)
                x = batch_norm(shortcut, weights, f"{name}.shortcut.1")
            x = (out + x).relu()
    return x


@pytest.mark.parametrize("stem, size", [("cifar", 32), ("stl", 96), ("imagenet", 64)])
def test_resnet18_equals_the_formula_written_out_with_a_global_average_pool(stem, size):
    model = randomised(ResNet18(stem, width=2))
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    feature_map = forward_by_hand(images, model.state_dict(), stem)  # (B, D, h, w)
    expected = feature_map.sum(dim=(2, 3)) / feature_map[0, 0].numel()
    torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-9)
    if stem == "stl":  # whose published pool is 7x7
        assert feature_map.shape[2:] == (7, 7)


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
