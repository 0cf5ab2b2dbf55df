"""Feature extraction over a split, cached on disk where it takes long."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from utils import distributed
from utils.device import full_precision
from utils.errors import RunError
from utils.storage.files import new_array, read_manifest, verify_manifest, writable_folder

BLOCK = 2**12  # features that go through a head at once
IN_MEMORY = 4 * 2**30  # bytes; cached features that take more are memory-mapped


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, fp32 (no autocast, no TF32); all of it is restored after the block."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    distributed.share_buffers(model)
    try:
        with torch.no_grad(), full_precision():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def extract_features(model: nn.Module, loader, autocast=nullcontext, read=Tensor.float) -> Tensor:
    """model(images) for all N images: (N, D) float32 on the CPU.

    Computed in fp32 even inside an autocast block; `autocast` may open one that counts, for monitoring.
    read: what is kept of the model's output for a batch, (B, D), or (H, B, D) for H heads."""
    outputs = None
    with evaluating(model), autocast():
        for batch in loader:
            rows = distributed.gather(read(model(batch.views[0])), dim=-2)
            if outputs is None:
                shape = *rows.shape[:-2], len(loader.dataset), rows.shape[-1]
                outputs = torch.empty(shape, dtype=rows.dtype)
            outputs[..., distributed.gather(batch.index), :] = rows.cpu()
    return outputs


def predict(model: nn.Module, loader) -> list[Tensor]:
    """Softmax of a clustering model's logits for all N images: float32 (N, K) on the CPU, for each head."""
    return list(extract_features(model, loader, read=lambda heads: torch.stack(heads).float().softmax(dim=2)))


def pass_through(layer: nn.Module, features: Tensor, device) -> Tensor:
    """layer(features) for features (N, D) of all N images: float32 (N, K) on the CPU."""
    outputs = None
    with torch.no_grad(), full_precision():
        for number, block in enumerate(features.split(BLOCK)):
            rows = layer(block.to(device).float()).cpu()
            if outputs is None:  # once: blocks and their concatenation would take twice the memory
                outputs = rows.new_empty(len(features), rows.shape[1])
            outputs[number * BLOCK :][: len(rows)] = rows
    return outputs


def predict_from(head: nn.Module, features: Tensor, device) -> Tensor:
    """Softmax of one head's logits for the backbone's features (N, D): float32 (N, K) on the CPU."""
    return pass_through(nn.Sequential(head, nn.Softmax(dim=1)), features, device)


def cached_features(folder: Path | str, name: str, model: nn.Module, loader, passes: int = 1) -> Tensor:
    """model(images) in `passes` passes over a loader, each with its own views: (passes, N, D) float32.

    Cached as `<folder>/<name>-<hash>.npy`; the hash covers images, weights, network, transform, seed, passes:
    one name stands for one content, so runs may share a folder. Memory-mapped above IN_MEMORY bytes. A
    network without parameters is not worth a cache."""
    if next(model.parameters(), None) is None:
        return extract_features(model, loader)[None]
    weights = hashlib.sha256(repr(model).encode())
    for key, value in model.state_dict().items():
        weights.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        weights.update(value.cpu().contiguous().numpy())
    metadata = {
        "images_sha256": loader.dataset.fingerprint,
        "weights_sha256": weights.hexdigest(),
        "transform": repr(loader.views[0]),
        "seed": loader.seed,
        "passes": passes,
    }
    digest = hashlib.sha256(json.dumps(metadata).encode()).hexdigest()
    path = Path(folder, f"{name}-{digest[:12]}.npy")
    path = distributed.from_main(_place, path, metadata)
    if not distributed.from_main(_is_cached, path, metadata):
        _write(path, metadata, model, loader, passes)
    mode = "c" if path.stat().st_size > IN_MEMORY else None  # copy on write: PyTorch wants writable memory
    return torch.from_numpy(np.load(path, mmap_mode=mode))


def _place(path: Path, metadata: dict) -> Path:
    """The path of the cache, or one in a folder that can be written to if it is not there yet."""
    return path if _is_cached(path, metadata) else writable_folder(path.parent) / path.name


def _is_cached(path: Path, metadata: dict) -> bool:
    """Whether the whole file is there. One above IN_MEMORY bytes is not hashed, which takes minutes."""
    with suppress(RunError, OSError):  # it or its manifest is damaged; no file
        size = path.stat().st_size
        manifest = (verify_manifest if size <= IN_MEMORY else read_manifest)(path) or {}
        return manifest.items() >= {**metadata, "bytes": size}.items()
    return False


def _write(path: Path, metadata: dict, model: nn.Module, loader, passes: int) -> None:
    array = None
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for number in range(passes):
            loader.set_epoch(number)
            for batch in loader:
                rows = distributed.gather(model(batch.views[0]).float()).cpu().numpy()  # (B, D)
                index = distributed.gather(batch.index)
                if not distributed.is_main():
                    continue
                if array is None:
                    shape = (passes, len(loader.dataset), rows.shape[1])
                    array = stack.enter_context(new_array(path, shape, np.float32, metadata))
                array[number, index] = rows
    distributed.agree(0)  # the others read the file, too
