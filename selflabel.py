"""Step 3, self-labelling (arXiv:2005.12320): confident images teach their cluster to strongly augmented views."""

from functools import partial

import torch

from data import build_dataset, open_splits
from data.augment import train_transform, val_transform
from data.loader import build_loader
from data.loader.build import eval_loader
from losses import ConfidenceBasedCE
from models import build_model
from models.ema import InPlaceEMA
from models.weights import load_best_head
from utils.errors import RunError
from utils.evaluate.clustering import clustering_warnings, evaluate_clusters
from utils.features import predict
from utils.optimizers import build_optimizer, set_learning_rate
from utils.report.figures import plot_curves, plot_matching
from utils.run.command_line import command, stage_arguments, stage_config
from utils.run.run import Run
from utils.stages import MODEL


def train_epoch(run: Run, model, loader, criterion, optimizer, ema, epoch: int) -> dict[str, float]:
    """One pass over the training images; returns the epoch's averages, over the steps that had confident images."""
    model.train()
    progress = run.steps(loader, epoch)
    for batch in progress:
        weak_images, strong_images = batch.views
        with torch.no_grad(), run.autocast():
            (weak,) = model(weak_images)  # (B, K), in train mode and first: both passes move the batch norm
        with run.autocast():  # its own: weights cast under no_grad would carry no gradient
            (strong,) = model(strong_images)
        loss, n_kept = criterion(weak, strong)
        progress.count(kept=n_kept, skipped=n_kept == 0)
        if n_kept == 0:  # the one wait in a step
            if ema:
                ema.restore_buffers()
            continue
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if ema:
            ema.step()
        progress.update(loss=loss)
    share, skipped = (
        int(progress.counts["kept"]) / (len(loader) * loader.batch_size),
        int(progress.counts["skipped"]),
    )
    return progress.averages() | {"train/confident_share": share, "train/skipped_steps": skipped}


def confidence_summary(probabilities: torch.Tensor, threshold: float) -> str:
    """How many images pass the threshold, in how many clusters, and the quantiles of the confidence."""
    confidence, clusters = probabilities.max(dim=1)
    confident = clusters[confidence > threshold]
    counts = confident.bincount(minlength=probabilities.shape[1])
    quantiles = confidence.quantile(torch.tensor([0.1, 0.5, 0.9, 1.0])).tolist()
    return (
        f"{len(confident)} of {len(confidence)} training images are above the confidence threshold {threshold} "
        f"({counts.min()} to {counts.max()} a cluster, none in {int((counts == 0).sum())} of {len(counts)} clusters); "
        "confidence at 10, 50, 90, 100 %: " + ", ".join(f"{quantile:.3f}" for quantile in quantiles)
    )


def main(argv: list[str] | None = None) -> None:
    arguments = stage_arguments(argv, __doc__)
    cfg = stage_config(arguments, "selflabel")
    run = Run(cfg, arguments.restart)
    start = run.starts_from(cfg.scan_dir, MODEL) / MODEL
    if run.is_finished(partial(open_splits, cfg)):
        return
    model = build_model(cfg)
    loaded = load_best_head(model, start)
    train_set, val_set = build_dataset(cfg, "train"), build_dataset(cfg, "val")
    run.uses(train_set, val_set)
    weak, strong = (
        val_transform(cfg.transformation_kwargs),
        train_transform(cfg.augmentation_strategy, cfg.augmentation_kwargs),
    )
    loader = build_loader(train_set, [weak, strong], cfg.batch_size, run.device, train=True, seed=cfg.seed)
    train_loader, val_loader = (eval_loader(dataset, weak, run.device) for dataset in (train_set, val_set))
    model = model.to(run.device, memory_format=torch.channels_last)
    criterion = ConfidenceBasedCE(cfg.confidence_threshold, **cfg.criterion_kwargs)
    optimizer = build_optimizer(cfg.optimizer, cfg.optimizer_kwargs, model.parameters())
    run.resume(model, optimizer)
    run.log.note(loaded)
    ema = InPlaceEMA(model, cfg.ema_alpha, cfg.ema_batch_norm) if cfg.use_ema else None
    run.log.note(confidence_summary(predict(model, train_loader)[0], cfg.confidence_threshold))
    with run.autocast():  # as after each epoch
        live = evaluate_clusters(predict(model, val_loader)[0], val_set.targets)["used_clusters"]

    for epoch in run.epochs():
        set_learning_rate(optimizer, cfg, epoch)
        metrics = train_epoch(run, model, loader, criterion, optimizer, ema, epoch)
        run.check_finite(epoch)
        if metrics["train/confident_share"] == 0:
            raise RunError(
                f"no image was confident in epoch {epoch + 1}, so there is nothing to learn from: "
                f"{confidence_summary(predict(model, train_loader)[0], cfg.confidence_threshold)}. Train scan.py for "
                "more epochs, raise its batch_size so that each cluster is in each batch, or lower confidence_threshold"
            )
        with run.autocast():
            probabilities = predict(model, val_loader)[0]
        report = evaluate_clusters(probabilities, val_set.targets)
        if report["used_clusters"] < live:
            run.log.warn(
                f"epoch {epoch + 1} uses {report['used_clusters']} clusters, {live} before: self-labelling is losing "
                "clusters; the SCAN model is untouched and may be the better one"
            )
        live = report["used_clusters"]
        report.pop("hungarian_match", None)
        run.log_epoch(epoch, metrics | {f"val/{name}": value for name, value in report.items()})
        run.save(epoch)

    run.save_model(model.state_dict())
    probabilities = predict(model, val_loader)[0]
    metrics = evaluate_clusters(probabilities, val_set.targets)
    run.log.final("self-labelling on the val split, last epoch", metrics)
    for caution in clustering_warnings(metrics):
        run.log.warn(caution)
    matrix = plot_matching(val_set, probabilities.argmax(dim=1), metrics, run.folder / "confusion_matrix.png")
    plot_curves(run.folder / "log.jsonl", run.folder / "curves.png")
    run.finish("the model" + (", curves.png and confusion_matrix.png" if matrix else " and curves.png"))


if __name__ == "__main__":
    command(main)
