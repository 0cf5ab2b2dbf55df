"""The steps that crop or flip. Beside what every step has (`augment_steps.py`), their `apply_to_image(image, values)`
does the same to one PIL image of any size, with its (columns,) values: so files are cropped where they are read."""

import math
from dataclasses import dataclass

import torch
from PIL import Image, ImageOps
from torch import Tensor

from data.augment import image_ops
from data.augment.steps import change_rows, uniform
from utils.errors import UserError


@dataclass(frozen=True)
class RandomResizedCrop:
    """A box of random area and aspect, resized to (size, size). Up to 10 tries to fit it in, then the centre."""

    size: int
    scale: tuple = (0.2, 1.0)
    ratio: tuple = (3 / 4, 4 / 3)
    tries = 10
    columns = 2 * tries + 2  # area shares, aspects (width : height), and where: down, across

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        area = uniform(*self.scale, (batch, self.tries), generator)
        aspect = uniform(
            math.log(self.ratio[0]), math.log(self.ratio[1]), (batch, self.tries), generator
        ).exp()
        return torch.cat([area, aspect, torch.rand(batch, 2, generator=generator)], dim=1)

    def boxes(self, values: Tensor, height: int, width: int) -> Tensor:
        """(B, 4) top, left, height, width in whole pixels, by torchvision's rule."""
        area, aspect, place = values.double().split([self.tries, self.tries, 2], dim=1)
        widths = (area * height * width * aspect).sqrt().round()  # (B, tries)
        heights = (area * height * width / aspect).sqrt().round()
        fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
        first = fits.int().argmax(dim=1, keepdim=True)  # the first try that fits
        whole = min(max(width / height, self.ratio[0]), self.ratio[1])  # else: all that the ratio allows
        centre_width, centre_height = min(width, round(height * whole)), min(height, round(width / whole))
        box_width = widths.gather(1, first).where(fits.any(dim=1, keepdim=True), centre_width)
        box_height = heights.gather(1, first).where(fits.any(dim=1, keepdim=True), centre_height)
        room = torch.cat([height - box_height, width - box_width], dim=1)  # (B, 2)
        corner = (place * (room + 1)).floor().where(fits.any(dim=1, keepdim=True), (room / 2).floor())
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
        change_rows(images, values[:, 0] > 0, values, lambda chosen, _: chosen.flip(3))
        return images

    def apply_to_image(self, image: Image.Image, values: Tensor) -> Image.Image:
        return ImageOps.mirror(image) if values.item() else image


def _room(height: int, width: int, size: int) -> tuple[int, int]:
    """How many pixels a (size, size) crop can move down and across."""
    if size > min(height, width):
        raise UserError(
            f"crop_size {size} is larger than the images ({height} x {width}): set it to at most {min(height, width)}"
        )
    return height - size, width - size


@dataclass(frozen=True)
class RandomCrop:
    """A (size, size) square anywhere in the image: no padding, no resizing."""

    size: int
    columns = 2

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        return torch.rand(batch, 2, generator=generator)

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        room = torch.tensor(_room(*images.shape[2:], self.size))
        if not room.any():
            return images
        top, left = (values * (room + 1)).floor().to(images.device, non_blocking=True).unbind(dim=1)
        return image_ops.crop(images, top, left, self.size)

    def apply_to_image(self, image: Image.Image, values: Tensor) -> Image.Image:
        room = torch.tensor(_room(image.height, image.width, self.size))
        top, left = (values * (room + 1)).int().tolist()
        return image.crop((left, top, left + self.size, top + self.size))


@dataclass(frozen=True)
class CenterCrop:
    size: int
    columns = 0

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        down, across = (round(room / 2) for room in _room(*images.shape[2:], self.size))
        return images[:, :, down : down + self.size, across : across + self.size]

    def apply_to_image(self, image: Image.Image, values: None) -> Image.Image:
        top, left = (round(room / 2) for room in _room(image.height, image.width, self.size))
        return image.crop((left, top, left + self.size, top + self.size))
