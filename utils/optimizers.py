"""Optimizers and learning-rate schedules."""

import math
from collections.abc import Iterable

import torch
from torch.optim import Optimizer

OPTIMIZERS = {  # name: class, and the optimizer_kwargs that it reads
    "sgd": (torch.optim.SGD, ("lr", "weight_decay", "momentum", "nesterov")),
    "adam": (torch.optim.Adam, ("lr", "weight_decay")),
    "adamw": (torch.optim.AdamW, ("lr", "weight_decay")),
}


def build_optimizer(name: str, kwargs, parameters: Iterable[torch.nn.Parameter]) -> Optimizer:
    """Plain SGD or Adam, weight decay on biases and batch norms too (as published), or AdamW, with none on
    tensors of one dimension; one fused kernel."""
    optimizer, reads = OPTIMIZERS[name]
    groups = list(parameters)
    if name == "adamw":
        small, large = (
            [each for each in groups if (each.ndim > 1) == is_large] for is_large in (False, True)
        )
        groups = [{"params": large}, {"params": small, "weight_decay": 0.0}]
    return optimizer(groups, fused=True, **{key: kwargs[key] for key in reads})


def learning_rate(cfg, epoch: int) -> float:
    """The learning rate of epoch 0, 1, ...

    cosine: half a period from lr to lr * lr_decay_rate ** 3, which it would reach at epoch `epochs`.
    step: lr, times lr_decay_rate for each milestone of lr_decay_epochs before this epoch. constant: lr.
    In the first warmup_epochs a line from 0 to lr takes its place, with its mean over each epoch."""
    lr, kwargs = cfg.optimizer_kwargs.lr, cfg.get("scheduler_kwargs", {})
    if epoch < (warmup := kwargs.get("warmup_epochs", 0)):
        return lr * (epoch + 0.5) / warmup
    if cfg.scheduler == "cosine":
        lowest = lr * kwargs["lr_decay_rate"] ** 3
        return lowest + (lr - lowest) * (1 + math.cos(math.pi * epoch / cfg.epochs)) / 2
    if cfg.scheduler == "step":
        return lr * kwargs["lr_decay_rate"] ** sum(each < epoch for each in kwargs["lr_decay_epochs"])
    return lr


def set_learning_rate(optimizer: Optimizer, cfg, epoch: int) -> None:
    """Give every parameter group the learning rate of this epoch."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(cfg, epoch)
