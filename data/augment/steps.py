"""The steps of a transform that work on batches alone; crops and the flip are in `crops.py`.

A step has `columns` (random numbers per image), `draw(batch, generator) -> (batch, columns)` on the CPU, and
`apply(images, values)`. Images are uint8 (B, 3, H, W) before `Normalize`, float after it. `values` are on the
CPU, where images can be grouped without waiting for the device; a step sends what the device needs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.augment import image_ops
from utils.device import sent


def uniform(low, high, shape: tuple, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def apply_by_kind(images: Tensor, kinds: Tensor, *operations: tuple) -> Tensor:
    """The images after P operations each, one after another; all images with one kind of operation together.

    kinds: int64 (B, P) on the CPU, which of the operations; len(operations) leaves the image as it is.
    operations: each a function(images, *parameters), then its parameters: (B, P, ...), on the device."""
    images = images.clone(memory_format=torch.contiguous_format)
    flat = images.flatten(1)
    word = torch.complex128 if flat.shape[1] % 16 == 0 else torch.uint8  # PyTorch copies word by word
    in_order = sent(kinds.T.argsort(dim=1, stable=True), images.device)  # (P, B), sent in one copy
    for place, column in enumerate(kinds.T):
        counts = column.bincount(minlength=len(operations) + 1).tolist()
        for rows, (operation, *parameters) in zip(in_order[place].split(counts), operations, strict=False):
            if len(rows):
                those = (values[rows, place] for values in parameters)
                changed = operation(images.index_select(0, rows), *those).contiguous().flatten(1)
                flat.view(word)[rows] = changed.view(word)
    return images


@dataclass(frozen=True)
class Sometimes:
    """`operation(images)` on each image with probability p."""

    p: float = 0.5
    columns = 1

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        return (torch.rand(batch, 1, generator=generator) < self.p).float()

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        return apply_by_kind(images, 1 - values.long(), (self.operation,))


class Greyscale(Sometimes):
    def operation(self, images: Tensor) -> Tensor:
        return image_ops.greyscale(images).expand_as(images)


@dataclass(frozen=True)
class ColorJitter:
    """With probability p: brightness, contrast, saturation and hue, in a random order for each image."""

    p: float
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    columns = 9  # whether to change the image, four amounts, and which operation comes first to fourth
    operations = (image_ops.brightness, image_ops.contrast, image_ops.saturation, image_ops.hue)

    @property
    def strengths(self) -> Tensor:  # (4,)
        return torch.tensor([self.brightness, self.contrast, self.saturation, self.hue])

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        chosen = (torch.rand(batch, 1, generator=generator) < self.p).float()
        middle, lowest = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 0.0, -1.0])
        low = torch.maximum(middle - self.strengths, lowest)
        amounts = uniform(low, middle + self.strengths, (batch, 4), generator)
        order = torch.rand(batch, 4, generator=generator).argsort(dim=1).float()
        return torch.cat([chosen, amounts, order], dim=1)

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        order = values[:, 5:].long()
        amounts = sent(values[:, 1:5].gather(1, order), images.device)  # (B, 4), in that order
        kinds = order.where((values[:, :1] > 0) & (self.strengths[order] > 0), 4)  # 4: unchanged
        return apply_by_kind(images, kinds, *((operation, amounts) for operation in self.operations))


@dataclass(frozen=True)
class RandomAffine:
    """Small rotations, zooms, shears and shifts about the centre, bilinear: for images with a right way up.

    Drawn uniformly: angle within +-degrees; zoom = scale * sqrt(aspect) across, scale / sqrt(aspect) down;
    shear within +-shear; shifts within +-translate of the width and height."""

    degrees: float
    scale: tuple
    aspect: tuple
    shear: float
    translate: float
    columns = 6  # angle, zoom across and down, shear, shift across and down

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        angle, shear = (uniform(-reach, reach, (batch,), generator) for reach in (self.degrees, self.shear))
        scale, aspect = (uniform(*reach, (batch,), generator) for reach in (self.scale, self.aspect))
        shift = uniform(-self.translate, self.translate, (batch, 2), generator)
        columns = torch.stack([angle, scale * aspect.sqrt(), scale / aspect.sqrt(), shear], dim=1)
        return torch.cat([columns, shift], dim=1)

    def matrix(self, values: Tensor, height: int, width: int) -> Tensor:
        """(B, 6), output to input: the inverse of zoom, then shear, rotation, shift, about the centre."""
        angle, across, down, shear, shift_x, shift_y = values.double().unbind(dim=1)
        cos, sin = torch.deg2rad(angle).cos(), torch.deg2rad(angle).sin()
        a, b = (cos + shear * sin) / across, (sin - shear * cos) / across  # Z^-1 S^-1 R^-1
        d, e = -sin / down, cos / down
        x, y = width / 2 + shift_x * width, height / 2 + shift_y * height  # where the input's centre goes
        return image_ops.affine_matrix(a, b, width / 2 - a * x - b * y, d, e, height / 2 - d * x - e * y)

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        return image_ops.affine_bilinear(images, sent(self.matrix(values, *images.shape[2:]), images.device))


@dataclass(frozen=True)
class Normalize:
    """uint8 to float in [0, 1], then (value - mean) / std for each channel."""

    mean: tuple
    std: tuple
    columns = 0

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        mean, std = (image_ops.constant(tuple(each), images.device) for each in (self.mean, self.std))
        return images.float().div_(255).sub_(mean.view(3, 1, 1)).div_(std.view(3, 1, 1))


@dataclass(frozen=True)
class Cutout:
    """Squares set to 0 after normalising: rows y - h to y + h - 1, columns alike, h = length // 2, clipped.

    Each image has one length, drawn from 1 to `length`; each centre (y, x) is a uniform pixel."""

    n_holes: int
    length: int
    random: bool = True  # in the published configs; without effect

    @property
    def columns(self) -> int:
        return 1 + 2 * self.n_holes  # length, then each hole's centre as shares of height and width

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        length = torch.randint(1, self.length + 1, (batch, 1), generator=generator)
        return torch.cat([length.float(), torch.rand(batch, 2 * self.n_holes, generator=generator)], dim=1)

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        height, width = images.shape[2:]
        values = sent(values, images.device)[:, :, None]
        half, inside = (values[:, :1] / 2).floor(), []
        for share, length in ((values[:, 1::2], height), (values[:, 2::2], width)):
            pixels = torch.arange(length, device=images.device)
            offset = pixels - (share * length).floor()  # (B, holes, length)
            inside.append(((offset >= -half) & (offset < half)).float())
        holes = inside[0].transpose(1, 2) @ inside[1]  # (B, H, W): how many holes cover each pixel
        return images * (holes == 0)[:, None]
