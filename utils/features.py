"""What a network says of every image of a split, in order; kept in a file where it takes long to find out."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.storage.files import fresh_manifest, new_array

IN_MEMORY = 4 * 2**30  # bytes; kept features that take more are memory-mapped


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


def extract_features(model: nn.Module, loader) -> Tensor:
    """model(images) for all N images: (N, D) float32 on the CPU."""
    features = None
    with evaluating(model):
        for batch in loader:
            rows = model(batch.views[0]).float()  # (B, D)
            if features is None:
                features = torch.empty(len(loader.dataset), rows.shape[1])
            features[batch.index] = rows.cpu()
    return features


def predict(model: nn.Module, loader) -> list[Tensor]:
    """Softmax of a ClusteringModel's logits for all N images: (N, K) float32 on the CPU, one for each head."""
    heads = []
    with evaluating(model):
        for batch in loader:
            batch_heads = [logits.float().softmax(dim=1) for logits in model(batch.views[0])]  # (B, K) each
            heads = heads or [torch.empty(len(loader.dataset), head.shape[1]) for head in batch_heads]
            for head, rows in zip(heads, batch_heads, strict=True):
                head[batch.index] = rows.cpu()
    return heads


def cached_features(folder: Path, name: str, model: nn.Module, loader, passes: int = 1) -> Tensor:
    """model(images) of `passes` passes over a loader in order, each with random numbers of its own: (passes, N, D).

    float32 on the CPU; from the `.npy` file `path` if its record says that it was made of the same images, weights and
    views, else extracted and kept there. Above IN_MEMORY bytes they stay on disk, memory-mapped."""
    path = Path(folder) / f"{name}.npy"
    facts = {
        "holds": "features",
        "images_sha256": loader.dataset.fingerprint,
        "weights_sha256": weights_sha256(model),
        "views": f"{loader.views[0]!r}, seed {loader.seed}",
        "passes": passes,
    }
    if fresh_manifest(path, facts) is None:
        _keep(path, facts, model, loader, passes)
    mode = "c" if path.stat().st_size > IN_MEMORY else None  # copy on write: PyTorch wants writable memory
    return torch.from_numpy(np.load(path, mmap_mode=mode))


def _keep(path: Path, facts: dict[str, Any], model: nn.Module, loader, passes: int) -> None:
    array = None
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for number in range(passes):
            loader.set_epoch(number)
            for batch in loader:
                rows = model(batch.views[0]).float().cpu().numpy()  # (B, D)
                if array is None:
                    shape = (passes, len(loader.dataset), rows.shape[1])
                    array = stack.enter_context(new_array(path, shape, np.float32, facts))
                array[number, batch.index] = rows


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 of all weights and buffers, their names, and the network that they are in."""
    digest = hashlib.sha256(repr(model).encode())
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().numpy())
    return digest.hexdigest()
