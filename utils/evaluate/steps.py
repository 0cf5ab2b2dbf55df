"""What each step was worth, without labels: its clusters, and those of k-means, in the features of step 1."""

from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor

from utils.evaluate.clustering import clustering_metrics
from utils.evaluate.kmeans import nearest_centre
from utils.evaluate.label_free import inertia, silhouette

CLEARLY = 2 / 3  # a silhouette below this share of that of the step before


def compare_steps(
    step_1: Tensor, centres: Tensor | None, steps: Mapping[str, Tensor], targets: Tensor | None
) -> dict[str, float]:
    """`step1_silhouette_<step>` and `step1_inertia_<step>` of the clusters of k-means and of each step among
    the features; with labels `ACC_kmeans` too.

    step_1: (N, D) by the frozen backbone; centres: (K, D) of k-means on the training images' (see
    `kmeans_centres`), if they are known; steps: {stage: probabilities (N, K)}."""
    clusters = {name: each.argmax(dim=1) for name, each in steps.items()}
    if centres is not None:
        clusters = {"kmeans": nearest_centre(step_1, centres), **clusters}
    figures = {f"step1_silhouette_{name}": silhouette(step_1, each) for name, each in clusters.items()}
    figures |= {f"step1_inertia_{name}": inertia(step_1, each) for name, each in clusters.items()}
    if centres is not None:
        figures["ACC_kmeans"] = clustering_metrics(clusters["kmeans"], targets).get("ACC")
    return {name: value for name, value in figures.items() if value is not None}


def step_warnings(figures: Mapping[str, float]) -> list[str]:
    """A sentence for each step whose silhouette in `compare_steps` is clearly lower than before it."""
    name = "step1_silhouette_"
    scores = {key.removeprefix(name): value for key, value in figures.items() if key.startswith(name)}
    return [
        f"{after} lowers the silhouette of the clusters in the features of step 1 from {scores[before]:.3f} "
        f"({before}) to {scores[after]:.3f}: it may have found other groups than those you look for; look at "
        "the prototypes of both, and try another seed"
        for before, after in pairwise(scores)
        if scores[before] > 0 and scores[after] < CLEARLY * scores[before]
    ]
