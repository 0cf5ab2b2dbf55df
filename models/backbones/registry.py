"""The backbones by the config's key `backbone`: builders that take (stem, width). The module that they return
takes normalised images (B, 3, H, W) to features (B, D), D being its attribute `features_dim`."""

from models.backbones.resnet import ResNet18, resnet50

BACKBONES = {"resnet18": ResNet18, "resnet50": resnet50}
