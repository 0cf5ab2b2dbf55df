"""The steps that a strategy is made of. Each draws its random numbers for a batch and applies them to the batch.

A step has `columns` (how many numbers it draws for an image), `draw(batch, generator) -> (batch, columns)` on the CPU
and `apply(images, values)`. Images are uint8 (B, 3, H, W) up to `Normalize`, float after it; values stay on the CPU,
where images are grouped by what is done to them without waiting for the device. Crops and the flip, which work on
single images too, are in `augment_crops.py`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.augment import image_ops
from data.augment.image_ops import affine_matrix


def uniform(low, high, shape: tuple, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def change_rows(images: Tensor, chosen: Tensor, values: Tensor, operation) -> None:
    """Replace the images chosen by the (B,) mask by operation(images, values), in place. Mask and values on the CPU;
    images contiguous."""
    rows = chosen.nonzero().squeeze(1)
    if len(rows):
        values, rows = (
            values[rows].to(images.device, non_blocking=True),
            rows.to(images.device, non_blocking=True),
        )
        _words(images)[rows] = _words(operation(images.index_select(0, rows), values).contiguous())


def _words(images: Tensor) -> Tensor:
    """The same memory, a row an image, in words of 16 bytes where it can be: they are moved one by one."""
    rows = images.flatten(1)
    return rows.view(torch.complex128) if rows.shape[1] % 16 == 0 else rows


@dataclass(frozen=True)
class ColorJitter:
    """With probability p: brightness, contrast, saturation and hue, each image in its own order."""

    p: float
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    columns = 9  # whether, four amounts, and which operation comes first to fourth
    operations = (image_ops.brightness, image_ops.contrast, image_ops.saturation, image_ops.hue)

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        chosen = (torch.rand(batch, 1, generator=generator) < self.p).float()
        reach = torch.tensor([self.brightness, self.contrast, self.saturation, self.hue])
        middle = torch.tensor([1.0, 1.0, 1.0, 0.0])
        low = torch.cat([(1 - reach[:3]).clamp(min=0), -reach[3:]])
        amounts = uniform(low, middle + reach, (batch, 4), generator)
        order = torch.rand(batch, 4, generator=generator).argsort(dim=1).float()
        return torch.cat([chosen, amounts, order], dim=1)

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        images = images.clone(memory_format=torch.contiguous_format)
        chosen, amounts, order = values[:, 0] > 0, values[:, 1:5], values[:, 5:]
        reach = (self.brightness, self.contrast, self.saturation, self.hue)
        for place in range(4):
            for number, operation in enumerate(self.operations):
                if reach[number] > 0:
                    change_rows(images, chosen & (order[:, place] == number), amounts[:, number], operation)
        return images


@dataclass(frozen=True)
class Greyscale:
    p: float
    columns = 1

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        return (torch.rand(batch, 1, generator=generator) < self.p).float()

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        images = images.clone(memory_format=torch.contiguous_format)
        change_rows(
            images, values[:, 0] > 0, values, lambda chosen, _: image_ops.greyscale(chosen).expand_as(chosen)
        )
        return images


@dataclass(frozen=True)
class RandomAffine:
    """Mild turning, zooming, slanting and shifting about the centre, bilinear: for pictures with a right way up.

    Drawn uniformly: angle within +-degrees; zoom = scale * sqrt(aspect) across, scale / sqrt(aspect) down; shear within
    +-shear; shifts within +-translate of the width and height."""

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
        """(B, 6), output to input: the inverse of zoom, then shear, then turn, then shift, all about the centre."""
        angle, across, down, shear, shift_x, shift_y = values.double().unbind(dim=1)
        cos, sin = torch.deg2rad(angle).cos(), torch.deg2rad(angle).sin()
        a, b = (cos + shear * sin) / across, (sin - shear * cos) / across  # Z^-1 S^-1 R^-1
        d, e = -sin / down, cos / down
        x, y = width / 2 + shift_x * width, height / 2 + shift_y * height  # shows the input's centre
        return affine_matrix(a, b, width / 2 - a * x - b * y, d, e, height / 2 - d * x - e * y, values)

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        return image_ops.affine_bilinear(images, self.matrix(values, *images.shape[2:]))


@dataclass(frozen=True)
class Normalize:
    """uint8 to float: [0, 1], then channel by channel minus mean, over std."""

    mean: tuple
    std: tuple
    columns = 0

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(channels).view(1, 3, 1, 1).to(images.device, non_blocking=True)
            for channels in (self.mean, self.std)
        )
        return images.float().div_(255).sub_(mean).div_(std)


@dataclass(frozen=True)
class Cutout:
    """Squares set to 0 after normalising: rows y - h to y + h - 1, the same columns, h = length // 2, clipped.

    One length for an image, a whole number drawn from 1 to `length`; each centre (y, x) a uniform pixel."""

    n_holes: int
    length: int

    @property
    def columns(self) -> int:
        return 1 + 2 * self.n_holes  # length, then each hole's centre as shares of height and width

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        length = torch.randint(1, self.length + 1, (batch, 1), generator=generator)
        return torch.cat([length.float(), torch.rand(batch, 2 * self.n_holes, generator=generator)], dim=1)

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        height, width = images.shape[2:]
        values = values.to(images.device, non_blocking=True)
        half = (values[:, :1] / 2).floor()  # (B, 1)
        rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
        for hole in range(self.n_holes):
            y = (values[:, 1 + 2 * hole, None] * height).floor()  # (B, 1)
            x = (values[:, 2 + 2 * hole, None] * width).floor()
            in_rows = ((rows >= y - half) & (rows < y + half)).float()  # (B, H)
            in_columns = ((columns >= x - half) & (columns < x + half)).float()  # (B, W)
            images = images * (1 - in_rows[:, None, :, None] * in_columns[:, None, None, :])
        return images
