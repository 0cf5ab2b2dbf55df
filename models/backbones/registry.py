"""The backbones by the name that the config's key `backbone` gives.

A builder takes (stem, width). It returns a module from normalised images (B, 3, H, W) to features (B, D),
with D as its attribute `features_dim`. A new backbone is one row here and one more choice of the key."""

from models.backbones.resnet import ResNet18, resnet50

BACKBONES = {"resnet18": ResNet18, "resnet50": resnet50}
