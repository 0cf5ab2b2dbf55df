"""Which head of a clustering model is the best, on the val split and without labels."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from utils.evaluate.clustering import evaluate_clusters
from utils.evaluate.label_free import neighbor_agreement, scan_validation, silhouette
from utils.features import extract_features, predict_from


class ValSplit(NamedTuple):
    """The val split. neighbors: (N, T+1). step_1: its features by the backbone of step 1, (N, D)."""

    dataset: Any
    loader: Any
    neighbors: Tensor
    step_1: Tensor

    def features(self, cfg, model: nn.Module) -> Tensor:
        """The backbone's features, (N, D), which are those of step 1 while it is frozen."""
        return self.step_1 if cfg.update_cluster_head_only else extract_features(model.backbone, self.loader)

    def validate(self, cfg, model: nn.Module, heads: list[int], features: Tensor) -> tuple[float, int, dict]:
        """The lowest SCAN loss of these heads (no label is used), the head that has it, and metrics of its
        clusters."""
        lowest, prior = None, cfg.criterion_kwargs.get("cluster_prior")
        for number in heads:
            probabilities = self.predict(model, number, features)
            terms = scan_validation(probabilities, self.neighbors, prior)
            if lowest is None or terms["total_loss"] < lowest:  # the first head wins a tie
                lowest, head, metrics, best = terms["total_loss"], number, terms, probabilities
        metrics = metrics | evaluate_clusters(best, self.dataset.targets)
        metrics["neighbor_agreement"] = neighbor_agreement(best.argmax(dim=1), self.neighbors)
        metrics.pop("hungarian_match", None)
        return lowest, head, {f"val/{name}": value for name, value in metrics.items()}

    def most_distinct(self, model: nn.Module, features: Tensor) -> int:
        """The head whose clusters have the highest silhouette in the features of step 1; no label is used."""

        def score(head: int) -> float:
            found = silhouette(self.step_1, self.predict(model, head, features).argmax(dim=1))
            return -1 if found is None else found  # None for a single cluster

        return max(range(len(model.cluster_head)), key=score)

    def predict(self, model: nn.Module, head: int, features: Tensor) -> Tensor:
        return predict_from(model.head(head), features, self.loader.device)  # (N, K)
