"""Optimizers and learning-rate schedules of the configs."""

import math
from collections.abc import Iterable

import torch
from torch.optim import Optimizer

OPTIMIZERS = {  # name: class, and the optimizer_kwargs that it reads
    "sgd": (torch.optim.SGD, ("lr", "weight_decay", "momentum", "nesterov")),
    "adam": (torch.optim.Adam, ("lr", "weight_decay")),
}


def build_optimizer(name: str, kwargs, parameters: Iterable[torch.nn.Parameter]) -> Optimizer:
    """Plain SGD or Adam over all parameters given, weight decay on biases and batch norms too (as published).

    Fused: all parameters in one kernel, which takes a gradient in the memory layout of its parameter for granted; that
    is how autograd makes it."""
    optimizer, reads = OPTIMIZERS[name]
    return optimizer(parameters, fused=True, **{key: kwargs[key] for key in reads})


def learning_rate(cfg, epoch: int) -> float:
    """The rate of epoch 0, 1, ..., set before the epoch.

    cosine: from lr to eta_min = lr * lr_decay_rate ** 3, half a period over all epochs. step: times lr_decay_rate for
    each milestone of lr_decay_epochs before this epoch. constant: lr."""
    lr, kwargs = cfg.optimizer_kwargs.lr, cfg.get("scheduler_kwargs", {})
    if cfg.scheduler == "cosine":
        eta_min = lr * kwargs["lr_decay_rate"] ** 3
        return eta_min + (lr - eta_min) * (1 + math.cos(math.pi * epoch / cfg.epochs)) / 2
    if cfg.scheduler == "step":
        return lr * kwargs["lr_decay_rate"] ** sum(
            milestone < epoch for milestone in kwargs["lr_decay_epochs"]
        )
    return lr


def set_learning_rate(optimizer: Optimizer, cfg, epoch: int) -> float:
    """Give every parameter group the rate of this epoch, and return it."""
    lr = learning_rate(cfg, epoch)
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr
