"""SCAN's head by the validation loss and by the silhouette, from finished runs; labels for the report alone.

    python benchmarks/head_choice.py results/digits-0/scan results/digits-1/scan

Both rules choose among the heads of the epoch with the lowest validation loss, which model.pth.tar holds."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.table import Table, parser, save
from data import build_dataset
from data.augment import val_transform
from data.loader import eval_loader
from models import build_model
from models.step_1 import features_of_step_1
from models.weights import load_whole, read_weights
from utils.config import load_config
from utils.evaluate.clustering import clustering_metrics
from utils.evaluate.kmeans import kmeans_centres, nearest_centre
from utils.evaluate.label_free import inertia, scan_validation, silhouette
from utils.features import extract_features, predict_from
from utils.neighbors.search import load_neighbors
from utils.stages import MODEL, NEIGHBORS

MEASURES = ("silhouette", "inertia", "ACC")


def judge(folder: Path) -> list:
    """A row: of k-means, of the head by the loss, and of the head by the silhouette, the MEASURES; then the
    lowest and the highest ACC of all heads."""
    cfg = load_config(None, folder / "config.yml")
    weights, dataset = read_weights(folder / MODEL, "scan", cfg.pretext_dir), build_dataset(cfg, "val")
    model = build_model(cfg)
    load_whole(model, weights, folder / MODEL)
    loader = eval_loader(dataset, val_transform(cfg.transformation_kwargs), "cpu")
    features, step_1 = extract_features(model.backbone, loader), features_of_step_1(cfg, val=loader)[0]
    neighbors = load_neighbors(Path(cfg.pretext_dir, NEIGHBORS["val"]), len(dataset))
    probabilities = [predict_from(model.head(number), features, "cpu") for number in range(cfg.num_heads)]
    losses = [scan_validation(each, neighbors)["total_loss"] for each in probabilities]
    clusters = [each.argmax(dim=1) for each in probabilities]
    scores = [silhouette(step_1, each) or -1 for each in clusters]
    accuracies = [clustering_metrics(each, dataset.targets).get("ACC") for each in clusters]
    chosen = clusters[losses.index(min(losses))], clusters[scores.index(max(scores))]
    row = []
    for each in (nearest_centre(step_1, kmeans_centres(step_1, cfg.num_classes, cfg.seed)), *chosen):
        row += [
            silhouette(step_1, each),
            inertia(step_1, each),
            clustering_metrics(each, dataset.targets).get("ACC"),
        ]
    return [*row, min(accuracies), max(accuracies)]


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("folders", type=Path, nargs="+")
    arguments = options.parse_args(argv)
    torch.manual_seed(0)
    names = [f"{rule}: {measure}" for rule in ("k-means", "loss", "silhouette") for measure in MEASURES]
    table = Table("run", *names, "lowest ACC", "highest ACC")
    for folder in arguments.folders:
        table.row(folder.parent.name, *judge(folder))
    save(arguments.json, table)


if __name__ == "__main__":
    main()
