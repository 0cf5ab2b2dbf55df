"""The end of a clustering stage: its figures, warnings and pictures."""

from utils.evaluate.clustering import clustering_warnings, evaluate_clusters
from utils.report.figures import plot_curves, plot_matching


def conclude(run, title: str, probabilities, val_set) -> None:
    """Log how good the clusters of the val images are, probabilities (N, K), draw what can be drawn, and finish."""
    metrics = evaluate_clusters(probabilities, val_set.targets)
    run.log.final(title, metrics)
    for warning in clustering_warnings(metrics):
        run.log.warn(warning)
    matrix = plot_matching(val_set, probabilities.argmax(dim=1), metrics, run.path / "confusion_matrix.png")
    plot_curves(run.path / "log.jsonl", run.path / "curves.png")
    run.finish("the model" + (", curves.png and confusion_matrix.png" if matrix else " and curves.png"))
