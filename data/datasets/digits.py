"""The 1,797 handwritten digits inside scikit-learn (UCI ML, 8 x 8 px, 10 classes): no download needed."""

import torch
from torch.nn import functional as F

from data.dataset import ResidentDataset


def read_digits(split: str) -> ResidentDataset:
    """The `train` (1,438) or `val` (359) split, enlarged to 16 x 16 px.

    Every fifth image in scikit-learn's order (index 4, 9, 14, ...) is held out, whatever its label."""
    from sklearn.datasets import load_digits  # slow to import

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] * (255 / 16)  # (N, 1, 8, 8), values 0..16
    images = F.interpolate(images, size=16, mode="bilinear").round().to(torch.uint8).expand(-1, 3, -1, -1)
    targets = torch.from_numpy(bunch.target).long()
    held_out = torch.arange(len(targets)) % 5 == 4
    chosen = held_out if split == "val" else ~held_out
    return ResidentDataset(images[chosen].contiguous(), targets[chosen], [str(digit) for digit in range(10)])
