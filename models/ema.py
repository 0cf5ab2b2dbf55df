"""The running average of self-labelling on ImageNet."""

import torch
from torch import nn


class InPlaceEMA:
    """After each optimizer step, replaces the parameters by their running average, as published: the weights
    move by 1 - alpha of the optimizer's step, as the average starts at them.

    batch_norm: `start`, as published, also puts the batch-norm buffers back to their first values, which are
    those of older features; `running` does not."""

    def __init__(self, model: nn.Module, alpha: float, batch_norm: str = "start"):
        self.alpha = alpha
        self.parameters = [parameter.detach() for parameter in model.parameters()]
        self.average = [parameter.clone() for parameter in self.parameters]
        self.buffers = list(model.buffers()) if batch_norm == "start" else []
        self.first_buffers = [buffer.clone() for buffer in self.buffers]

    def step(self) -> None:
        """average = alpha * average + (1 - alpha) * parameter."""
        torch._foreach_mul_(self.average, self.alpha)
        torch._foreach_add_(self.average, self.parameters, alpha=1 - self.alpha)
        torch._foreach_copy_(self.parameters, self.average)
        self.restore_buffers()

    def restore_buffers(self) -> None:
        """Put the batch-norm buffers back; also after a skipped step, as its forward passes moved them."""
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.first_buffers)
