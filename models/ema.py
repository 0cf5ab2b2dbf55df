"""The running average of self-labelling on ImageNet."""

import torch
from torch import nn


class InPlaceEMA:
    """After each optimizer step the parameters are replaced by their running average (method as published).

    Network and average are then equal again, so each step moves the weights by 1 - alpha of the optimizer's step. The
    average starts at the loaded weights.
    batch_norm: `start` puts the batch-norm buffers back to their start-of-stage values each time, as published: the
    model is evaluated with statistics of the features that it had before. `running` lets them follow the features."""

    def __init__(self, model: nn.Module, alpha: float, batch_norm: str = "start"):
        self.model, self.alpha, self.keeps_buffers = model, alpha, batch_norm == "start"
        self.average = [parameter.detach().clone() for parameter in model.parameters()]
        self.buffers = [buffer.clone() for buffer in model.buffers()]

    @torch.no_grad()
    def step(self) -> None:
        for average, parameter in zip(self.average, self.model.parameters(), strict=True):
            average.mul_(self.alpha).add_(parameter, alpha=1 - self.alpha)
            parameter.copy_(average)
        self.restore_buffers()

    @torch.no_grad()
    def restore_buffers(self) -> None:
        """Put the batch-norm buffers back; also after a step that was skipped, for its forward passes moved them."""
        if not self.keeps_buffers:
            return
        for start, buffer in zip(self.buffers, self.model.buffers(), strict=True):
            buffer.copy_(start)
