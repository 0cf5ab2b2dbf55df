"""The steps that crop or flip. Besides the methods of all steps (`steps.py`) they have `apply_to_image(image,
values)`: the same for one PIL image of any size and its row of the table."""

import math
from dataclasses import dataclass

import torch
from PIL import Image, ImageOps
from torch import Tensor

from data.augment import image_ops
from data.augment.rows import change_rows, rows_by_kind
from data.augment.steps import uniform
from utils.device import sent
from utils.errors import UserError


@dataclass(frozen=True)
class RandomResizedCrop:
    """A box of random area and aspect, resized to (size, size): the first of 10 tries that fits, else the
    centre."""

    size: int
    scale: tuple = (0.2, 1.0)
    ratio: tuple = (3 / 4, 4 / 3)
    tries = 10
    columns = 2 * tries + 2  # shares of the area, aspects (width : height), and the place: down, across

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        area = uniform(*self.scale, (batch, self.tries), generator)
        aspect = uniform(*map(math.log, self.ratio), (batch, self.tries), generator).exp()
        return torch.cat([area, aspect, torch.rand(batch, 2, generator=generator)], dim=1)

    def boxes(self, values: Tensor, height: int, width: int) -> Tensor:
        """(B, 4) top, left, height, width in whole pixels, by torchvision's rule."""
        area, aspect, place = values.double().split([self.tries, self.tries, 2], dim=1)
        widths = (area * height * width * aspect).sqrt().round()  # (B, tries)
        heights = (area * height * width / aspect).sqrt().round()
        fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
        first, any_fits = fits.int().argmax(dim=1, keepdim=True), fits.any(dim=1, keepdim=True)
        aspect = min(
            max(width / height, self.ratio[0]), self.ratio[1]
        )  # of the centre box, as large as possible
        box_width = widths.gather(1, first).where(any_fits, min(width, round(height * aspect)))
        box_height = heights.gather(1, first).where(any_fits, min(height, round(width / aspect)))
        room = torch.cat([height - box_height, width - box_width], dim=1)  # (B, 2)
        corner = (place * (room + 1)).floor().where(any_fits, (room / 2).floor())
        return torch.cat([corner, box_height, box_width], dim=1)

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        return image_ops.resized_crop(images, self.boxes(values, *images.shape[2:]), self.size)

    def apply_to_image(self, image: Image.Image, values: Tensor) -> Image.Image:
        top, left, height, width = self.boxes(values[None], image.height, image.width)[0].int().tolist()
        box = image.crop((left, top, left + width, top + height))
        return box.resize((self.size, self.size), Image.Resampling.BILINEAR)


@dataclass(frozen=True)
class HorizontalFlip:
    p: float = 0.5
    columns = 1

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        return (torch.rand(batch, 1, generator=generator) < self.p).float()

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        images = images.clone(memory_format=torch.contiguous_format)
        ((_, chosen),) = rows_by_kind(values.long(), 2, images.device)
        change_rows(images, chosen, lambda unflipped: unflipped.flip(3))
        return images

    def apply_to_image(self, image: Image.Image, values: Tensor) -> Image.Image:
        return ImageOps.mirror(image) if values.item() else image


def _room(height: int, width: int, size: int) -> Tensor:
    """(2,): how many pixels a (size, size) crop can move down and across."""
    if size > min(height, width):
        remedy = f"set it to at most {min(height, width)}"
        raise UserError(f"crop_size {size} is larger than the images ({height} x {width}): {remedy}")
    return torch.tensor([height - size, width - size])


def _cut(image: Image.Image, corner: Tensor, size: int) -> Image.Image:
    top, left = corner.int().tolist()
    return image.crop((left, top, left + size, top + size))


@dataclass(frozen=True)
class RandomCrop:
    """A (size, size) square anywhere in the image: no padding, no resizing."""

    size: int
    columns = 2

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        return torch.rand(batch, 2, generator=generator)

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        room = _room(*images.shape[2:], self.size)
        if not room.any():
            return images
        return image_ops.crop(images, sent((values * (room + 1)).long(), images.device), self.size)

    def apply_to_image(self, image: Image.Image, values: Tensor) -> Image.Image:
        return _cut(image, values * (_room(image.height, image.width, self.size) + 1), self.size)


@dataclass(frozen=True)
class CenterCrop:
    size: int
    columns = 0

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        top, left = (_room(*images.shape[2:], self.size) / 2).round().int().tolist()
        return images[:, :, top : top + self.size, left : left + self.size]

    def apply_to_image(self, image: Image.Image, values: Tensor) -> Image.Image:
        return _cut(image, (_room(image.height, image.width, self.size) / 2).round(), self.size)
