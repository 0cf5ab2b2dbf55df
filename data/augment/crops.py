"""The steps that crop, resize or flip. Besides the methods of all steps (`steps.py`) they have
`apply_to_image(image, values)`: the same for one PIL image of any size and its row of the table."""

import math
from dataclasses import dataclass

import torch
from PIL import Image, ImageOps
from torch import Tensor

from data.augment import image_ops
from data.augment.steps import Sometimes, uniform
from utils.device import sent
from utils.errors import UserError


@dataclass(frozen=True)
class Resize:
    """The short side becomes `size` pixels, antialiased; images of that size stay as they are."""

    size: int
    interpolation: str
    columns = 0

    def sides(self, *lengths: int) -> list[int]:
        return [int(self.size * length / min(lengths)) for length in lengths]

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        if min(images.shape[2:]) == self.size:
            return images
        return image_ops.resize(images, *self.sides(*images.shape[2:]), self.interpolation)

    def apply_to_image(self, image: Image.Image, values: Tensor) -> Image.Image:
        return image.resize(self.sides(*image.size), Image.Resampling[self.interpolation.upper()])


@dataclass(frozen=True)
class RandomResizedCrop:
    """A box of random area and aspect, resized to (size, size): the first try that fits, else the centre."""

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
        centre = min(max(width / height, self.ratio[0]), self.ratio[1])  # aspect of the largest centre box
        box_width = widths.gather(1, first).where(any_fits, min(width, round(height * centre)))
        box_height = heights.gather(1, first).where(any_fits, min(height, round(width / centre)))
        room = torch.cat([height - box_height, width - box_width], dim=1)  # (B, 2)
        corner = (place * (room + 1)).floor().where(any_fits, (room / 2).floor())
        return torch.cat([corner, box_height, box_width], dim=1)

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        return image_ops.resized_crop(images, self.boxes(values, *images.shape[2:]), self.size)

    def apply_to_image(self, image: Image.Image, values: Tensor) -> Image.Image:
        top, left, height, width = self.boxes(values[None], image.height, image.width)[0].int().tolist()
        box = (left, top, left + width, top + height)
        return image.crop(box).resize((self.size, self.size), Image.Resampling.BILINEAR)


class HorizontalFlip(Sometimes):
    def operation(self, images: Tensor) -> Tensor:
        return images.flip(3)

    def apply_to_image(self, image: Image.Image, values: Tensor) -> Image.Image:
        return ImageOps.mirror(image) if values.item() else image


@dataclass(frozen=True)
class RandomCrop:
    """A (size, size) square of the image: no padding, no resizing."""

    size: int
    columns = 2

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        return torch.rand(batch, 2, generator=generator)

    def corner(self, values: Tensor, height: int, width: int) -> Tensor:
        """int64 (B, 2) or (2,): top, left."""
        return (values * (self.room(height, width) + 1)).long()

    def room(self, height: int, width: int) -> Tensor:
        """(2,): how many pixels the crop can move down and across."""
        if self.size > (most := min(height, width)):
            problem = f"crop_size {self.size} is larger than the images ({height} x {width})"
            raise UserError(f"{problem}: set it to at most {most}")
        return torch.tensor([height - self.size, width - self.size])

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        if images.shape[2:] == (self.size, self.size):
            return images
        corner = sent(self.corner(values, *images.shape[2:]), images.device)
        down, across = (corner[..., None] + torch.arange(self.size, device=images.device)).unbind(dim=1)
        batch = torch.arange(len(images), device=images.device).view(-1, 1, 1)
        return images.permute(0, 2, 3, 1)[batch, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)

    def apply_to_image(self, image: Image.Image, values: Tensor) -> Image.Image:
        top, left = self.corner(values, image.height, image.width).tolist()
        return image.crop((left, top, left + self.size, top + self.size))


class CenterCrop(RandomCrop):
    columns = 0

    def corner(self, values: Tensor, height: int, width: int) -> Tensor:
        return (self.room(height, width) / 2).round().long()

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        top, left = self.corner(values, *images.shape[2:]).tolist()
        return images[:, :, top : top + self.size, left : left + self.size]
