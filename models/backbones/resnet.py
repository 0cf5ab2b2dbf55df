"""Backbones: images (B, 3, H, W) to pooled features (B, D).

ResNet-18 in basic blocks with the state-dict names of the published SCAN models; ResNet-50 is torchvision's."""

import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

STEMS = {  # the first convolution and the pool behind it
    "cifar": (lambda width: nn.Conv2d(3, width, 3, padding=1, bias=False), nn.Identity),
    "stl": (
        lambda width: nn.Conv2d(3, width, 3, padding=1, bias=False),
        lambda: nn.MaxPool2d(2, 2, padding=1),
    ),
    "imagenet": (
        lambda width: nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
        lambda: nn.MaxPool2d(3, 2, padding=1),
    ),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (arXiv:1512.03385, figure 2)."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet18(nn.Module):
    """Stages of width, 2, 4 and 8 times width channels; D = 8 * width (512 as published).

    The pool is global: at 96 px that is the published STL form's 7x7 pool."""

    def __init__(self, stem: str, width: int = 64):
        super().__init__()
        convolution, pool = STEMS[stem]
        self.conv1, self.bn1, self.maxpool = convolution(width), nn.BatchNorm2d(width), pool()
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        for stage in range(1, 5):
            first = BasicBlock(widths[stage - 1], widths[stage], stride=1 if stage == 1 else 2)
            self.add_module(
                f"layer{stage}", nn.Sequential(first, BasicBlock(widths[stage], widths[stage], stride=1))
            )
        self.features_dim = widths[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, D, h, w)
        return x.mean(dim=(2, 3))


def resnet50(stem: str) -> nn.Module:
    """torchvision's ResNet-50 without `fc`, untrained; D = 2048."""
    model = torchvision.models.resnet50(weights=None)
    if stem != "imagenet":
        convolution, pool = STEMS[stem]
        model.conv1, model.maxpool = convolution(64), pool()
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.features_dim = model.fc.in_features
    model.fc = nn.Identity()
    return model
