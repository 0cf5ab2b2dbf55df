"""Step 2, SCAN (arXiv:2005.12320): each image agrees with its neighbors, and all clusters are used."""

import math
import runpy
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn, optim

runpy.run_path(Path(__file__).resolve().parent / "utils/start.py", run_name=__name__)

from data import open_splits
from data.augment import train_transform, val_transform
from data.loader import EVAL_BATCH_SIZE, FeatureLoader, build_loader, eval_loader
from losses import SCANLoss, TEMILoss
from models import build_model, is_from_library, use_plain_view
from models.head_choice import ValSplit
from models.head_start import prepare_heads
from models.heads import MLPHead
from models.step_1 import features_of_step_1
from models.weights import load_backbone, load_whole, read_weights, scan_content
from utils.distributed import from_main, gather, sum_gradients
from utils.errors import UserError
from utils.evaluate.kmeans import kmeans_centres
from utils.features import cached_features
from utils.neighbors.search import load_neighbors
from utils.optimizers import build_optimizer, set_learning_rate
from utils.report.figures import conclude
from utils.run import Meter, Run, command, stage_config
from utils.stages import MODEL, NEIGHBORS


class Task(NamedTuple):
    """What is trained, and on what.

    network: a batch's views, or features, to a list of logits, one for each head. trained: its part that is
    in train mode. saved: what a checkpoint holds. teacher: for TEMI, as network with the running average of
    the trained heads; the average is the model's own heads."""

    network: nn.Module
    trained: nn.Module
    loader: Any
    criterion: nn.Module
    optimizer: optim.Optimizer
    saved: nn.Module
    teacher: nn.Module | None = None
    momentum: float = 0.0  # of the teacher


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


def train_epoch_temi(task: Task, meter: Meter, autocast) -> tuple[dict[str, float], Tensor]:
    """As `train_epoch`, with TEMI; returns the epoch's averages, and each head's mean loss, (H,)."""
    for batch in meter:
        with autocast():
            students = [gather(torch.stack(task.network(view)), dim=1) for view in batch.views]  # (H, B, K)
            with torch.no_grad():
                teachers = [gather(torch.stack(task.teacher(view)), dim=1) for view in batch.views]
        losses = task.criterion(students, teachers)  # (H,)
        task.optimizer.zero_grad()
        losses.mean().backward()
        sum_gradients(task.trained.parameters())
        if meter.epoch == 0:  # as published: the directions of the clusters stay at first
            for head in task.trained.modules():
                if isinstance(head, MLPHead):
                    head.weight.grad = head.gain.grad = None
        task.optimizer.step()
        with torch.no_grad():
            for average, weight in zip(task.teacher.parameters(), task.trained.parameters(), strict=True):
                average.lerp_(weight, 1 - task.momentum)
        meter.update(loss=losses.mean())
        meter.count(losses_of_heads=losses.detach())
    return meter.averages(), meter.counts["losses_of_heads"] / meter.measured


def end_to_end(cfg, model: nn.Module, train_set, neighbors, device) -> Task:
    """Train the whole network, on new views at each step."""
    views, training = [train_transform(cfg)] * 2, {"train": True, "neighbors": neighbors, "seed": cfg.seed}
    loader = build_loader(train_set, views, cfg.batch_size, device, **training)
    optimizer = build_optimizer(cfg.optimizer, cfg.optimizer_kwargs, model.parameters())
    return Task(model, model, loader, criterion_of(cfg), optimizer, model)


def heads_only(cfg, model: nn.Module, train_set, neighbors, device, is_begun=False) -> Task:
    """Train the heads on a frozen backbone. The training images go through it once, in the plain view or in
    `cached_views` random ones of each; with neither, new views do at each step."""
    model.eval().backbone.requires_grad_(False)
    heads, folder = model.cluster_head, Path(cfg.pretext_dir)
    plain = eval_loader(train_set, val_transform(cfg.transformation_kwargs), device)
    if not is_begun:  # else the checkpoint has what this makes
        prepare_heads(cfg, model, plain)
    views, training = [train_transform(cfg)] * 2, {"train": True, "neighbors": neighbors, "seed": cfg.seed}
    optimizer = build_optimizer(cfg.optimizer, cfg.optimizer_kwargs, heads.parameters())
    parts = nn.ModuleDict({"standardize": model.standardize, "cluster_head": heads})
    saved = parts if is_from_library(cfg) else model
    if cfg.augmentation_strategy == "plain":
        features = cached_features(folder, "features-train", model.backbone, plain)  # (1, N, D)
    elif cfg.cached_views:
        in_order = build_loader(train_set, views[:1], EVAL_BATCH_SIZE, device)  # the same for every seed
        features = cached_features(folder, "cached_views", model.backbone, in_order, cfg.cached_views)
    else:
        loader = build_loader(train_set, views, cfg.batch_size, device, **training)
        return Task(model, heads, loader, criterion_of(cfg), optimizer, saved)
    loader = FeatureLoader(features, train_set, views, cfg.batch_size, device, **training)
    network = nn.Sequential(model.standardize, heads)
    task = Task(network, heads, loader, criterion_of(cfg).to(device), optimizer, saved)
    return with_teacher(cfg, task, parts) if cfg.criterion == "temi" else task


def with_teacher(cfg, task: Task, parts: nn.ModuleDict) -> Task:
    """The same for TEMI: the model's heads become the teacher, and a copy of them is trained."""
    trained = deepcopy(task.trained)
    network = nn.Sequential(parts["standardize"], trained)
    optimizer = build_optimizer(cfg.optimizer, cfg.optimizer_kwargs, trained.parameters())
    parts.update({"trained": trained, "criterion": task.criterion})
    momentum = cfg.criterion_kwargs.teacher_momentum
    return Task(network, trained, task.loader, task.criterion, optimizer, parts, task.network, momentum)


def criterion_of(cfg) -> nn.Module:
    if cfg.criterion == "temi":
        return TEMILoss(cfg.num_heads, cfg.num_classes, cfg.criterion_kwargs.beta)
    return SCANLoss(**cfg.criterion_kwargs)


def train(run: Run, model: nn.Module, task: Task, val: ValSplit, best: dict, pretext: Path) -> float:
    """The epochs still to train. The best model is saved, of TEMI the last one; returns its validation loss.
    best: the lowest so far and its head. pretext: the model of step 1."""
    cfg, heads = run.cfg, list(range(run.cfg.num_heads))
    for epoch in run.epochs():
        set_learning_rate(task.optimizer, cfg, epoch)
        if task.teacher:
            metrics, losses = train_epoch_temi(task, run.meter(task.loader, epoch), run.autocast)
            heads = [int(losses.argmin())]
        else:
            metrics = train_epoch(task, run.meter(task.loader, epoch), run.autocast)
        features = val.features(cfg, model)
        loss, head, val_metrics = from_main(val.validate, cfg, model, heads, features)
        if task.teacher or loss < run.folder.loss_of_model(best["best_loss"]):
            if cfg.get("head_choice") == "silhouette":
                head = from_main(val.most_distinct, model, features)
            run.folder.save_model(scan_content(cfg, model, head, pretext), loss=loss)
        if task.teacher or loss < best["best_loss"]:
            best = {"best_loss": loss, "best_loss_head": head}
        run.end_epoch(epoch, metrics | val_metrics, **best)
    return run.folder.loss_of_model(best["best_loss"])


def main(argv: list[str] | None = None) -> None:
    cfg, options = stage_config(argv, "scan", __doc__)
    use_plain_view(cfg)
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
        loader = eval_loader(val_set, val_transform(cfg.transformation_kwargs), run.device)
        prepare = end_to_end
        if cfg.update_cluster_head_only:
            prepare = partial(heads_only, is_begun=run.folder.has_checkpoint())
        if cfg.criterion == "temi":
            neighbors = neighbors[:, 1:]  # an image is no partner of itself
        task = prepare(cfg, model, train_set, neighbors, run.device)
        best = run.restore(task.saved, task.optimizer, best_loss=math.inf, best_loss_head=0)
        run.log.note(loaded)
        if task.teacher is None:
            say_bounds(run.log, task.criterion, cfg.batch_size, cfg.num_classes)
        plain = eval_loader(train_set, val_transform(cfg.transformation_kwargs), run.device)
        train_features, step_1 = features_of_step_1(cfg, train=plain, val=loader)
        kmeans = from_main(kmeans_centres, train_features, cfg.num_classes, cfg.seed)
        del train_features  # gigabytes
        run.folder.save_kmeans(kmeans)
        val = ValSplit(val_set, loader, val_neighbors, step_1)
        loss = train(run, model, task, val, best, inputs[MODEL])

        weights = read_weights(run.path / MODEL, "scan", cfg.pretext_dir)
        load_whole(model, weights, run.path / MODEL)
        title = f"{cfg.criterion.upper()} on the val split, val/total_loss {loss:.4f}, head {weights.head}"
        probabilities = val.predict(model, weights.head, val.features(cfg, model))
        conclude(run, title, val_set, step_1, kmeans, scan=probabilities)


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
