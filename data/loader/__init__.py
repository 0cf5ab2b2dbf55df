"""Batches of augmented views, the same for images in memory and for images in files."""

from data.loader.build import EVAL_BATCH_SIZE, build_loader, eval_loader
from data.loader.features import FeatureLoader

__all__ = ["EVAL_BATCH_SIZE", "FeatureLoader", "build_loader", "eval_loader"]
