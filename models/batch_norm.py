"""Batch norm over the whole batch, whose rows several processes share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.console import say_once
from utils.distributed import all_of, world_size


def over_all_processes(model: nn.Module) -> nn.Module:
    """The model with the batch norms of the whole batch. Parameters, buffers and their names stay, and so do
    a library's own kinds of batch norm, which do more than that."""
    for module in model.modules() if world_size() > 1 else ():
        if type(module) is nn.BatchNorm2d:
            module.__class__, module.process_group = GlobalBatchNorm, None
        elif isinstance(module, nn.BatchNorm2d):
            say_once(f"warning: {type(module).__name__} takes the statistics of each process alone")
    return model


class GlobalBatchNorm(nn.SyncBatchNorm):
    """PyTorch's batch norm over processes, which refuses CPU tensors, and the same on CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not self.training:
            return super().forward(x)
        y, mean, var, count = _Normalize.apply(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_((var * count / (count - 1)).to(self.running_var), self.momentum)
        return y

    def _get_name(self) -> str:
        return "BatchNorm2d"  # as in one process: cached features are named by a hash of the network's repr


class _Normalize(torch.autograd.Function):
    """x (b, C, h, w), a process's rows, by mean and variance over all processes; these and the number of
    values of a channel, (C,) each, are returned, too."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float):
        own_mean, own_var = torch.batch_norm_update_stats(x.to(weight.dtype), None, None, 0.0)  # (C,) each
        own = torch.stack([torch.full_like(own_mean, x[:, 0].numel()), own_mean, own_var])
        counts, means, variances = torch.stack(all_of(own), dim=1).double()  # (W, C) each
        count = counts.sum(dim=0)
        mean = (counts * means).sum(dim=0) / count
        var = (counts * (variances + (means - mean) ** 2)).sum(dim=0) / count
        y = F.batch_norm(x, mean.to(weight), var.to(weight), weight, bias, training=False, eps=eps)
        ctx.save_for_backward(x, weight, mean.to(weight), var.to(weight), count.to(weight))
        ctx.eps = eps
        return y, mean, var, count

    @staticmethod
    def backward(ctx, dy: Tensor, *_):
        """dx = w s (dy - mean(dy) - z mean(dy z)), s = 1 / sqrt(var + eps), z = (x - mean) s, means over all
        processes (arXiv:1502.03167, section 3). `dx` without them is that of constant statistics."""
        x, weight, mean, var, count = ctx.saved_tensors
        fixed = False, ctx.eps, (True, True, True)
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, mean, var, None, None, *fixed
        )
        sums = torch.stack(all_of(torch.stack([dweight, dbias]))).sum(dim=0)  # of dy z, and of dy
        slope = (var + ctx.eps).rsqrt()
        of_z, of_one = -weight * slope * sums / count
        of_x, offset = (of_z * slope)[:, None, None], (of_one - of_z * slope * mean)[:, None, None]
        return dx.add_(offset.to(x)).addcmul_(x, of_x.to(x)), dweight, dbias, None
