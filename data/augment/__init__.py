"""Augmentation of whole batches, in two pure steps: draw a table of random numbers, then apply it."""

from data.augment.strategies import STRATEGIES, Table, apply, draw, join, train_transform, val_transform

__all__ = ["STRATEGIES", "Table", "apply", "draw", "join", "train_transform", "val_transform"]
