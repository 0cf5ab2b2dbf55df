"""What every data set offers: who the images are. How they are drawn and augmented is the loader's business."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from data.image_files import StreamedDataset, evenly_spaced


def is_labelled(dataset) -> bool:
    """Whether any image of the data set has a known label."""
    return dataset.targets is not None and bool((dataset.targets >= 0).any())


def near(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device, if they take at most a quarter of its free memory, else where they are."""
    fits = device.type == "cuda" and values.nbytes <= torch.cuda.mem_get_info(device)[0] / 4
    return values.to(device) if fits else values


def sent(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device. The host does not wait until they are there: from pinned memory the device fetches them
    itself."""
    if device.type == "cuda" and not values.is_cuda:
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


@dataclass(frozen=True)
class ResidentDataset:
    """A split held in memory.

    images: uint8 (N, 3, H, W). targets: int64 (N,), -1 where unknown, or None when nothing is labelled; they are for
    evaluation alone. classes: the names that targets count. source: the files that the images were decoded from, if
    any."""

    images: Tensor
    targets: Tensor | None
    classes: list[str]
    source: StreamedDataset | None = None
    _copies: dict = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the images and their shape, or that of their files; labels are not in it."""
        if self.source:
            return self.source.fingerprint  # the same, whether they fit into memory or not
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy())
        return digest.hexdigest()

    def images_on(self, device: torch.device) -> Tensor:
        """The images where a loader for `device` reads them: on it, if they take at most a quarter of its free memory,
        else in host memory. All loaders share one copy."""
        if device not in self._copies:
            self._copies[device] = near(self.images, device)
        return self._copies[device]

    def name(self, index: int) -> str:
        """The image for a reader: its file, or its place in the data set."""
        return self.source.name(index) if self.source else str(index)

    def chosen(self, rows: Tensor) -> "ResidentDataset":
        """The images at int64 rows (M,), in that order."""
        targets = None if self.targets is None else self.targets[rows]
        return ResidentDataset(self.images[rows], targets, self.classes, self.source and self.source.chosen(rows))

    def thinned(self, number: int) -> "ResidentDataset":
        """At most `number` of the images, evenly spaced over the order of the data set."""
        return self if number >= len(self) else self.chosen(evenly_spaced(number, len(self)))

    def get_image(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index].permute(1, 2, 0).numpy())
