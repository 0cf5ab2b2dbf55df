"""ResNet-18 with the state-dict names of the published SCAN models; ResNet-50 is torchvision's."""

from torch import Tensor, nn
from torch.nn import functional as F

from utils.errors import UserError


def stem_and_width(cfg) -> tuple[str, int]:
    """Of model_kwargs. The stem `auto` is the published one of the data set; for other data sets it follows
    the crop size in pixels."""
    kwargs, side = cfg.get("model_kwargs", {}), cfg.transformation_kwargs.crop_size
    stem = kwargs.get("stem", "auto")
    if stem == "auto":
        published = (name for name in ("cifar", "stl", "imagenet") if cfg.train_db_name.startswith(name))
        stem = next(published, "cifar" if side <= 48 else "stl" if side <= 128 else "imagenet")
    return stem, kwargs.get("width", 64)


def stem_layers(stem: str, width: int) -> tuple[nn.Conv2d, nn.Module]:
    """The first convolution and the pool after it, of the stem `cifar`, `stl` or `imagenet`."""
    if stem == "imagenet":
        return nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), nn.MaxPool2d(3, 2, padding=1)
    pool = nn.MaxPool2d(2, 2, padding=1) if stem == "stl" else nn.Identity()
    return nn.Conv2d(3, width, 3, padding=1, bias=False), pool


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (arXiv:1512.03385, figure 2)."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels:
            projection = nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet18(nn.Module):
    """Images (B, 3, H, W) to pooled features (B, 8 * width); the stages have 1, 2, 4, 8 times width channels.

    The pool is global: at 96 px that is the published STL form's 7x7 pool."""

    def __init__(self, stem: str, width: int = 64):
        super().__init__()
        self.conv1, pool = stem_layers(stem, width)
        self.bn1, self.maxpool = nn.BatchNorm2d(width), pool
        self.features_dim = 8 * width
        for stage, channels in enumerate((width, 2 * width, 4 * width, 8 * width), start=1):
            first = BasicBlock(max(width, channels // 2), channels, stride=1 if stage == 1 else 2)
            self.add_module(f"layer{stage}", nn.Sequential(first, BasicBlock(channels, channels, stride=1)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, D, h, w)
        return x.mean(dim=(2, 3))


def resnet50(stem: str, width: int = 64) -> nn.Module:
    """torchvision's ResNet-50 without `fc`, untrained: images (B, 3, H, W) to pooled features (B, 2048)."""
    import torchvision  # slow

    if width != 64:
        raise UserError(f"model_kwargs.width {width}: resnet50 has only 64; choose backbone: resnet18")
    model = torchvision.models.resnet50(weights=None)
    if stem != "imagenet":
        model.conv1, model.maxpool = stem_layers(stem, width)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.features_dim = model.fc.in_features
    model.fc = nn.Identity()
    return model
