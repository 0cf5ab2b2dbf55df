"""Metrics of a clustering."""

from utils.evaluate.clustering import clustering_metrics
from utils.evaluate.label_free import scan_validation

__all__ = ["clustering_metrics", "scan_validation"]
