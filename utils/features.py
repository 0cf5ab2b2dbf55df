"""What a network says of every image of a split, in order, un-augmented."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from data.batches import Loader
from data.loader import build_loader

EVAL_BATCH_SIZE = 512


def eval_loader(dataset, strategy: tuple, device) -> Loader:
    """Every image once, in order, under the val transform."""
    return build_loader(dataset, [strategy], EVAL_BATCH_SIZE, device)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, full fp32 (no TF32); every module's mode and the settings are put back after."""
    modes = {module: module.training for module in model.modules()}
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
        for module, mode in modes.items():
            module.training = mode


def extract_features(model: nn.Module, loader: Loader) -> Tensor:
    """model(images) for all N images: (N, D) float32 on the CPU."""
    with evaluating(model):
        return torch.cat([model(batch.views[0]).float().cpu() for batch in loader])


def predict(model: nn.Module, loader: Loader) -> list[Tensor]:
    """Softmax of a ClusteringModel's logits for all N images: (N, K) float32 on the CPU, one for each head."""
    heads = []
    with evaluating(model):
        for batch in loader:
            batch_heads = [logits.float().softmax(dim=1) for logits in model(batch.views[0])]  # (B, K) each
            heads = heads or [torch.empty(len(loader.dataset), head.shape[1]) for head in batch_heads]
            for head, rows in zip(heads, batch_heads, strict=True):
                head[batch.index] = rows.cpu()
    return heads
