"""Augmentation of whole batches in two pure steps: draw a table of random numbers, then apply it."""

from data.augment.strategies import TRANSFORMS, apply, draw, train_transform, val_transform

__all__ = ["TRANSFORMS", "apply", "draw", "train_transform", "val_transform"]
