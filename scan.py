"""Step 2, SCAN (arXiv:2005.12320): each image agrees with its neighbors, and all clusters are used."""

import math
import runpy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn, optim

runpy.run_path(Path(__file__).resolve().parent / "utils/start.py", run_name=__name__)

from data import open_splits
from data.augment import train_transform, val_transform
from data.loader import EVAL_BATCH_SIZE, FeatureLoader, build_loader, eval_loader
from losses import SCANLoss
from models import build_model
from models.weights import load_backbone, load_whole, read_weights
from utils.distributed import from_main, gather, sum_gradients
from utils.errors import UserError
from utils.evaluate.clustering import evaluate_clusters
from utils.evaluate.label_free import neighbor_agreement, scan_validation
from utils.features import cached_features, extract_features, predict
from utils.neighbors.search import load_neighbors
from utils.optimizers import build_optimizer, set_learning_rate
from utils.report.figures import conclude
from utils.run import Meter, Run, command, stage_config
from utils.stages import MODEL, NEIGHBORS


class Task(NamedTuple):
    """What is trained, and on what.

    network: a batch's views, or cached features, to a list of logits, one for each head. trained: its part
    that is in train mode. val_network: the same for the batches of val_loader."""

    network: nn.Module
    trained: nn.Module
    loader: Any
    criterion: SCANLoss
    optimizer: optim.Optimizer
    val_network: nn.Module
    val_loader: Any


def train_epoch(task: Task, meter: Meter, autocast) -> dict[str, float]:
    """One pass over the training images, each with one of its neighbors; returns the epoch's averages."""
    task.trained.train()
    for batch in meter:
        anchors, neighbors = batch.views
        with autocast():  # two passes, as each has batch-norm statistics of its own
            anchor_logits, neighbor_logits = task.network(anchors), task.network(neighbors)
        logits = (gather(torch.stack(each), dim=1) for each in (anchor_logits, neighbor_logits))  # (H, B, K)
        terms = task.criterion(*logits)  # (H,) each
        task.optimizer.zero_grad()
        terms.total.sum().backward()
        sum_gradients(task.trained.parameters())
        task.optimizer.step()
        loss, consistency, entropy = (term.mean() for term in terms)  # over heads
        meter.update(loss=loss, consistency=consistency, entropy=entropy)
    return meter.averages()


def end_to_end(cfg, model: nn.Module, train_set, val_set, neighbors, device) -> Task:
    """Train the whole network, on new views at each step."""
    views = [train_transform(cfg.augmentation_strategy, cfg.augmentation_kwargs)] * 2
    training = {"train": True, "neighbors": neighbors, "seed": cfg.seed}
    loader = build_loader(train_set, views, cfg.batch_size, device, **training)
    val_loader = eval_loader(val_set, val_transform(cfg.transformation_kwargs), device)
    optimizer = build_optimizer(cfg.optimizer, cfg.optimizer_kwargs, model.parameters())
    return Task(model, model, loader, SCANLoss(**cfg.criterion_kwargs), optimizer, model, val_loader)


def heads_only(cfg, model: nn.Module, train_set, val_set, neighbors, device) -> Task:
    """Train the heads on a frozen backbone. Val images go through it once; so do `cached_views` of each
    training image, if that is above 0."""
    task = end_to_end(cfg, model, train_set, val_set, neighbors, device)
    heads = model.cluster_head
    model.eval().backbone.requires_grad_(False)
    features = extract_features(model.backbone, task.val_loader)  # (N, D)
    val_loader = FeatureLoader(features[None], val_set, [None], EVAL_BATCH_SIZE, device)
    network, loader = model, task.loader
    if cfg.cached_views:
        views, folder = loader.views, Path(cfg.pretext_dir)
        in_order = build_loader(train_set, views[:1], EVAL_BATCH_SIZE, device)  # the same for every seed
        features = cached_features(folder, "cached_views", model.backbone, in_order, cfg.cached_views)
        network, training = heads, {"train": True, "neighbors": neighbors, "seed": cfg.seed}
        loader = FeatureLoader(features, train_set, views, cfg.batch_size, device, **training)
    optimizer = build_optimizer(cfg.optimizer, cfg.optimizer_kwargs, heads.parameters())
    return Task(network, heads, loader, task.criterion, optimizer, heads, val_loader)


def validate(task: Task, val_set, neighbors) -> tuple[float, int, dict[str, float]]:
    """The lowest SCAN loss on the val split (no label is used), the head that has it, and metrics of its
    clusters."""
    predictions = predict(task.val_network, task.val_loader)  # (N, K) for each head
    prior = task.criterion.cluster_prior
    terms = from_main(lambda: [scan_validation(each, neighbors, prior) for each in predictions])
    losses = [each["total_loss"] for each in terms]
    head = losses.index(min(losses))  # the first head wins a tie
    metrics = terms[head] | evaluate_clusters(predictions[head], val_set.targets)
    metrics["neighbor_agreement"] = neighbor_agreement(predictions[head].argmax(dim=1), neighbors)
    metrics.pop("hungarian_match", None)
    return losses[head], head, {f"val/{name}": value for name, value in metrics.items()}


def main(argv: list[str] | None = None) -> None:
    cfg, options = stage_config(argv, "scan", __doc__)
    with Run(cfg, options.restart) as run:
        inputs = run.folder.start_from()
        train_set, val_set = open_splits(cfg)
        run.folder.use_images(train_set, val_set)
        if run.is_finished():
            return
        if (clusters := cfg.num_classes) > (images := len(train_set)):
            raise UserError(f"num_classes {clusters} is more than the {images} training images: lower it")
        neighbors = load_neighbors(inputs[NEIGHBORS["train"]], len(train_set), cfg.num_neighbors)
        val_neighbors = load_neighbors(inputs[NEIGHBORS["val"]], len(val_set))
        model = build_model(cfg)
        loaded = load_backbone(model, inputs[MODEL])
        model = model.to(run.device, memory_format=torch.channels_last)
        prepare = heads_only if cfg.update_cluster_head_only else end_to_end
        task = prepare(cfg, model, train_set, val_set, neighbors, run.device)
        best = run.restore(model, task.optimizer, best_loss=math.inf, best_loss_head=0)
        run.log.note(loaded)
        say_bounds(run.log, task.criterion, cfg.batch_size, cfg.num_classes)

        for epoch in run.epochs():
            set_learning_rate(task.optimizer, cfg, epoch)
            metrics = train_epoch(task, run.meter(task.loader, epoch), run.autocast)
            loss, head, val_metrics = validate(task, val_set, val_neighbors)
            if loss < run.folder.loss_of_model(best["best_loss"]):
                run.folder.save_model({"model": model.state_dict(), "head": head}, loss=loss)
            if loss < best["best_loss"]:
                best = {"best_loss": loss, "best_loss_head": head}
            run.end_epoch(epoch, metrics | val_metrics, **best)

        weights = read_weights(run.path / MODEL, "scan")
        load_whole(model, weights, run.path / MODEL)
        lowest = f"lowest val/total_loss {run.folder.loss_of_model(best['best_loss']):.4f}"
        title = f"SCAN on the val split, {lowest}, head {weights.head}"
        conclude(run, title, predict(task.val_network, task.val_loader)[weights.head], val_set)


def say_bounds(log, criterion: SCANLoss, batch_size: int, num_clusters: int) -> None:
    """How low the loss can get, and a warning where a batch is too small for its entropy."""
    log.note(criterion.bounds(num_clusters))
    if batch_size / num_clusters < 4:
        log.warn(
            f"batch_size {batch_size} is less than 4 images for each of num_classes {num_clusters} "
            "clusters: the entropy is of a batch, so clusters may stay empty; raise batch_size to "
            f"{4 * num_clusters} or more"
        )


if __name__ == "__main__":
    command(main)
