"""Step 3, self-labelling (arXiv:2005.12320): confident images teach their cluster to augmented views."""

import runpy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn, optim

runpy.run_path(Path(__file__).resolve().parent / "utils/start.py", run_name=__name__)

from data import open_splits
from data.augment import train_transform, val_transform
from data.loader import build_loader, eval_loader
from losses import ConfidenceBasedCE
from models import build_model, use_plain_view
from models.ema import InPlaceEMA
from models.step_1 import features_of_step_1
from models.weights import load_best_head
from utils.console import say
from utils.distributed import gather, sum_gradients
from utils.errors import RunError
from utils.evaluate.clustering import evaluate_clusters
from utils.evaluate.kmeans import read_centres
from utils.features import predict
from utils.optimizers import build_optimizer, set_learning_rate
from utils.report.figures import conclude
from utils.run import Meter, Run, command, stage_config
from utils.stages import KMEANS, MODEL

REMEDY = "raise its batch_size, or lower confidence_threshold or optimizer_kwargs.lr"


class Task(NamedTuple):
    """What is trained, and on what. ema: the running average of the weights, or None."""

    model: nn.Module
    loader: Any
    criterion: ConfidenceBasedCE
    optimizer: optim.Optimizer
    ema: InPlaceEMA | None = None


def train_epoch(task: Task, meter: Meter, autocast) -> dict[str, float]:
    """One pass over the training images; returns averages over the steps that had confident images."""
    task.model.train()
    for batch in meter:
        weak_images, strong_images = batch.views
        with torch.no_grad(), autocast():
            (weak,) = task.model(weak_images)  # (B, K), first: both passes move the batch norm
        with autocast():  # a context of its own: weights that were cast under no_grad carry no gradient
            (strong,) = task.model(strong_images)
        loss, n_kept = task.criterion(gather(weak), gather(strong))
        meter.count(kept=n_kept, skipped=n_kept == 0)
        if n_kept == 0:  # the one time in a step that the host waits for the device
            if task.ema:
                task.ema.restore_buffers()
            continue
        task.optimizer.zero_grad()
        loss.backward()
        sum_gradients(task.model.parameters())
        task.optimizer.step()
        if task.ema:
            task.ema.step()
        meter.update(loss=loss)
    kept, skipped = int(meter.counts["kept"]), int(meter.counts["skipped"])
    share = kept / (len(task.loader) * task.loader.batch_size)
    return meter.averages() | {"train/confident_share": share, "train/skipped_steps": skipped}


def confidence_summary(probabilities: Tensor, threshold: float) -> str:
    """How many images pass the threshold, in how many clusters, and the quantiles of the confidence."""
    confidence, clusters = probabilities.max(dim=1)
    confident = clusters[confidence > threshold]
    counts = confident.bincount(minlength=probabilities.shape[1])
    quantiles = confidence.quantile(torch.tensor([0.1, 0.5, 0.9, 1.0])).tolist()
    return (
        f"{len(confident)} of {len(confidence)} training images are above confidence_threshold {threshold} "
        f"({counts.min()} to {counts.max()} a cluster, none in {int((counts == 0).sum())} of {len(counts)} "
        f"clusters); confidence at 10, 50, 90, 100 %: {', '.join(f'{value:.3f}' for value in quantiles)}"
    )


def main(argv: list[str] | None = None) -> None:
    cfg, options = stage_config(argv, "selflabel", __doc__)
    use_plain_view(cfg)
    if cfg.backbone == "features":
        return say("step 3 is left out: features that are given cannot be trained")
    with Run(cfg, options.restart) as run:
        inputs = run.folder.start_from()
        train_set, val_set = open_splits(cfg)
        run.folder.use_images(train_set, val_set)
        if run.is_finished():
            return
        model = build_model(cfg)
        loaded = load_best_head(model, inputs[MODEL], cfg.pretext_dir)
        model = model.to(run.device, memory_format=torch.channels_last)
        weak, strong = val_transform(cfg.transformation_kwargs), train_transform(cfg)
        loader = build_loader(
            train_set, [weak, strong], cfg.batch_size, run.device, train=True, seed=cfg.seed
        )
        train_images, val_images = (eval_loader(images, weak, run.device) for images in (train_set, val_set))
        optimizer = build_optimizer(cfg.optimizer, cfg.optimizer_kwargs, model.parameters())
        (before,) = predict(model, val_images)
        run.restore(model, optimizer)
        ema = InPlaceEMA(model, cfg.ema_alpha, cfg.ema_batch_norm) if cfg.use_ema else None
        criterion = ConfidenceBasedCE(cfg.confidence_threshold, **cfg.criterion_kwargs)
        task = Task(model, loader, criterion, optimizer, ema)
        run.log.note(loaded)
        run.log.note(confidence_summary(predict(model, train_images)[0], cfg.confidence_threshold))
        used = evaluate_clusters(predict(model, val_images)[0], val_set.targets)["used_clusters"]

        for epoch in run.epochs():
            set_learning_rate(optimizer, cfg, epoch)
            metrics = train_epoch(task, run.meter(loader, epoch), run.autocast)
            if metrics["train/confident_share"] == 0:
                summary = confidence_summary(predict(model, train_images)[0], cfg.confidence_threshold)
                found = f"no image was confident in epoch {epoch + 1}: {summary}"
                raise RunError(f"{found}. Train scan.py for more epochs, {REMEDY}")
            val_metrics = evaluate_clusters(predict(model, val_images)[0], val_set.targets)
            used_before, used = used, val_metrics["used_clusters"]
            if used < used_before:
                lost = f"epoch {epoch + 1} uses {used} clusters, {used_before} before"
                run.log.warn(f"{lost}: self-labelling is losing clusters; the SCAN model may be better")
            val_metrics.pop("hungarian_match", None)
            run.end_epoch(epoch, metrics | {f"val/{name}": value for name, value in val_metrics.items()})

        run.folder.save_model(model.state_dict())
        (after,) = predict(model, val_images)
        (step_1,) = features_of_step_1(cfg, val=val_images) or [None]
        kmeans = None if step_1 is None else read_centres(inputs[MODEL].with_name(KMEANS), step_1.shape[1])
        title = "self-labelling on the val split, last epoch"
        conclude(run, title, val_set, step_1, kmeans, scan=before, selflabel=after)


if __name__ == "__main__":
    command(main)
