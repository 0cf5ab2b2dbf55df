"""The end of scan.py and selflabel.py: results, warnings and pictures."""

from torch import Tensor

from utils.evaluate.clustering import clustering_warnings, evaluate_clusters
from utils.report.figures import plot_curves, plot_matching


def conclude(run, title: str, probabilities: Tensor, val_set) -> None:
    """Log the results on the val split, draw curves.png and, with labels, confusion_matrix.png; then finish.

    run: has `log.final(title, metrics)`, `log.warn(text)`, the folder `path`, and `finish(text)`.
    probabilities: (N, K)."""
    metrics = evaluate_clusters(probabilities, val_set.targets)
    run.log.final(title, metrics)
    for warning in clustering_warnings(metrics):
        run.log.warn(warning)
    matrix = run.path / "confusion_matrix.png"
    drawn = plot_matching(val_set, probabilities.argmax(dim=1), metrics, matrix)
    plot_curves(run.path / "log.jsonl", run.path / "curves.png")
    run.finish("the model, curves.png and confusion_matrix.png" if drawn else "the model and curves.png")
