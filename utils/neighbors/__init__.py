"""Nearest neighbors of features."""

from utils.neighbors.search import mine_neighbors, weighted_knn

__all__ = ["mine_neighbors", "weighted_knn"]
