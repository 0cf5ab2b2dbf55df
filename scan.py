"""Step 2, SCAN (arXiv:2005.12320): cluster so that every image agrees with its neighbors and all clusters are used."""

import math
from functools import partial

import torch

from data import build_dataset, open_splits
from data.augment import train_transform, val_transform
from data.loader import build_loader
from data.loader.build import EVAL_BATCH_SIZE, eval_loader
from data.loader.features import FeatureLoader
from losses import SCANLoss
from models import build_model
from models.weights import load_backbone, read_weights
from utils.errors import UserError
from utils.evaluate.clustering import clustering_warnings, evaluate_clusters
from utils.evaluate.label_free import neighbor_agreement, scan_validation
from utils.features import cached_features, extract_features, predict
from utils.neighbors.search import load_neighbors
from utils.optimizers import build_optimizer, set_learning_rate
from utils.report.figures import plot_curves, plot_matching
from utils.run.command_line import command, stage_arguments, stage_config
from utils.run.run import Run
from utils.stages import MODEL, NEIGHBORS
from utils.storage.state_dicts import load_strictly


def train_epoch(run: Run, model, loader, criterion, optimizer, epoch: int) -> dict[str, float]:
    """One pass over the training images, each with one of its neighbors; returns the epoch's averages.

    model: images to a list of logits, or, where views are kept, their features to a list of logits."""
    model.train()
    if run.cfg.update_cluster_head_only and not run.cfg.cached_views:
        model.backbone.eval()
    progress = run.steps(loader, epoch)
    for batch in progress:
        anchors, neighbors = batch.views
        with run.autocast():
            logits = zip(
                model(anchors), model(neighbors), strict=True
            )  # two passes, as their batch norm differs
        heads = [criterion(anchor, neighbor) for anchor, neighbor in logits]
        loss = torch.stack([terms.total for terms in heads]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total, consistency, entropy = (torch.stack(terms).mean() for terms in zip(*heads, strict=True))
        progress.update(loss=total, consistency=consistency, entropy=entropy)  # the mean over heads
    return progress.averages()


def main(argv: list[str] | None = None) -> None:
    arguments = stage_arguments(argv, __doc__)
    cfg = stage_config(arguments, "scan")
    run, strategy = (
        Run(cfg, arguments.restart),
        train_transform(cfg.augmentation_strategy, cfg.augmentation_kwargs),
    )
    pretext = run.starts_from(cfg.pretext_dir, MODEL, *NEIGHBORS.values())
    if run.is_finished(partial(open_splits, cfg)):
        return
    model = build_model(cfg)
    loaded = load_backbone(model, pretext / MODEL)
    train_set, val_set = build_dataset(cfg, "train"), build_dataset(cfg, "val")
    run.uses(train_set, val_set)
    if cfg.num_classes > len(train_set):
        raise UserError(
            f"num_classes {cfg.num_classes} is more than the {len(train_set)} training images: lower it, or add images"
        )
    neighbors = load_neighbors(pretext / NEIGHBORS["train"], len(train_set), cfg.num_neighbors)
    val_neighbors = load_neighbors(pretext / NEIGHBORS["val"], len(val_set))
    loader = build_loader(
        train_set,
        [strategy, strategy],
        cfg.batch_size,
        run.device,
        train=True,
        neighbors=neighbors,
        seed=cfg.seed,
    )
    val_loader = eval_loader(val_set, val_transform(cfg.transformation_kwargs), run.device)
    model = model.to(run.device, memory_format=torch.channels_last)
    if cfg.update_cluster_head_only:
        model.backbone.requires_grad_(False)
    criterion = SCANLoss(**cfg.criterion_kwargs)
    optimizer = build_optimizer(
        cfg.optimizer, cfg.optimizer_kwargs, [p for p in model.parameters() if p.requires_grad]
    )
    state = run.resume(model, optimizer)
    run.log.note(loaded)
    best_loss, best_head = state.setdefault("best_loss", math.inf), state.setdefault("best_loss_head", 0)
    trained = judged = model  # what a batch of views, and what one of val images goes through
    if cfg.update_cluster_head_only:
        judged = model.cluster_head
        features = extract_features(model.backbone, val_loader)  # they do not change any more
        val_loader = FeatureLoader(features[None], val_set, [None], EVAL_BATCH_SIZE, run.device)
    if cfg.cached_views:
        trained = model.cluster_head
        in_order = build_loader(
            train_set, [strategy], EVAL_BATCH_SIZE, run.device
        )  # the same views for every seed
        features = cached_features(pretext / "cached_views.npy", model.backbone, in_order, cfg.cached_views)
        loader = FeatureLoader(
            features, train_set, loader.views, cfg.batch_size, run.device, True, neighbors, cfg.seed
        )
    run.log.note(criterion.bounds(cfg.num_classes))
    if cfg.batch_size / cfg.num_classes < 4:
        run.log.warn(
            f"batch_size is {cfg.batch_size} for num_classes {cfg.num_classes}, less than 4 images a cluster: the "
            f"entropy is of a batch, so clusters may stay empty; raise batch_size to {4 * cfg.num_classes} or more"
        )

    for epoch in run.epochs():
        set_learning_rate(optimizer, cfg, epoch)
        metrics = train_epoch(run, trained, loader, criterion, optimizer, epoch)
        run.check_finite(epoch)
        predictions = predict(judged, val_loader)  # (N, K) for each head
        validations = [scan_validation(each, val_neighbors, criterion.cluster_prior) for each in predictions]
        losses = [validation["total_loss"] for validation in validations]
        head = losses.index(min(losses))  # the first head wins a tie
        if losses[head] < best_loss:  # selection sees no label
            best_loss, best_head = losses[head], head
            run.save_model({"model": model.state_dict(), "head": head})
        probabilities = predictions[head]
        report = validations[head] | evaluate_clusters(probabilities, val_set.targets)
        report["neighbor_agreement"] = neighbor_agreement(probabilities.argmax(dim=1), val_neighbors)
        report.pop("hungarian_match", None)
        run.log_epoch(epoch, metrics | {f"val/{name}": value for name, value in report.items()})
        run.save(epoch, best_loss=best_loss, best_loss_head=best_head)

    best = read_weights(run.folder / MODEL, "scan")
    load_strictly(model, best.state, run.folder / MODEL)
    probabilities = predict(judged, val_loader)[best.head]
    metrics = evaluate_clusters(probabilities, val_set.targets)
    run.log.final(f"SCAN on the val split, lowest val/total_loss {best_loss:.4f}, head {best.head}", metrics)
    for caution in clustering_warnings(metrics):
        run.log.warn(caution)
    matrix = plot_matching(val_set, probabilities.argmax(dim=1), metrics, run.folder / "confusion_matrix.png")
    plot_curves(run.folder / "log.jsonl", run.folder / "curves.png")
    run.finish("the model" + (", curves.png and confusion_matrix.png" if matrix else " and curves.png"))


if __name__ == "__main__":
    command(main)
