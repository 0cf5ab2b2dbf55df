"""Pillow's image operations on a whole batch, each image with its own parameter.

Images are uint8 (B, 3, H, W) in and out, parameters (B,) on the images' device unless said otherwise.
Results are Pillow's to the bit, but for resampling (within a grey level, rarely two) and hue (float32, not
double)."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.device import sent


@cache
def constant(values: tuple, device: torch.device) -> Tensor:  # float32 (n,), sent once
    return sent(torch.tensor(values, dtype=torch.float32), device)


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _cut_off(values: Tensor) -> Tensor:
    """To 8 bits, not rounded. Via int16: a CPU takes three times as long from float to uint8 directly."""
    return values.short().clamp_(0, 255).to(torch.uint8)


def _choose(chosen: Tensor, these, others):
    """torch.where for integers, `chosen` 1 or 0: a CPU takes several times as long for a boolean mask."""
    return others + (these - others) * chosen


def _blend(degenerate: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Pillow's Image.blend; factor 0 gives `degenerate`. Overwrites `images`, which are float32."""
    return _cut_off(images.sub_(degenerate).mul_(_per_image(factor)).add_(degenerate))


def _luma(images: Tensor) -> Tensor:
    """Float (B, 3, H, W) to (B, 1, H, W): ITU-R 601 in Pillow's 16-bit fixed point, exact in float32."""
    red, green, blue = images.split(1, dim=1)
    luma = (red * 19595).add_(green, alpha=38470).add_(blue, alpha=7471).add_(0x8000)
    return luma.div_(0x10000).floor_()


def greyscale(images: Tensor) -> Tensor:
    """To luma: (B, 1, H, W)."""
    return _cut_off(_luma(images.float()))


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """ImageEnhance.Color: towards grey."""
    images = images.float()
    return _blend(_luma(images), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """ImageEnhance.Contrast: towards the image's mean grey."""
    images = images.float()
    mean = _luma(images).double().mean(dim=(1, 2, 3), keepdim=True)
    return _blend((mean + 0.5).floor().float(), images, factor)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """ImageEnhance.Brightness: towards black."""
    return _cut_off(images.float().mul_(_per_image(factor)))


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """ImageEnhance.Sharpness: towards the 3 x 3 smoothed image (centre 5, others 1); the border stays."""
    width = images.shape[3]
    rows = F.pad(images.short().flatten(2), (width + 1, width + 1))  # rows joined: wrong at the border alone
    across = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]  # sums of three neighbors in a row
    sums = across[..., : -2 * width] + across[..., width:-width] + across[..., 2 * width :]  # (B, 3, H*W)
    images = images.float()
    mean = sums.view_as(images).float().add_(images, alpha=4).div_(13)
    smooth = images.clone()
    smooth[..., 1:-1, 1:-1] = mean.add_(0.5).floor_()[..., 1:-1, 1:-1]
    return _blend(smooth, images, factor)


def hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by `shift` of the circle (-0.5 to 0.5), in Pillow's HSV with 8 bits a channel."""
    red, green, blue = images.unbind(dim=1)  # (B, H, W) each
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    is_red, is_green = (red == value).short(), (green == value).short()
    red, green, blue = images.short().unbind(dim=1)
    value, chroma = value.float(), chroma.float()
    angle = _choose(is_red, green - blue, _choose(is_green, blue - red, red - green)) / chroma.clamp(min=1)
    angle.add_(_choose(is_red, 0, _choose(is_green, 2, 4))).div_(6)  # of the circle
    angle = angle.sub_(angle.floor()).mul_(255).short().to(torch.uint8)
    angle.add_((shift * 255).int().to(torch.uint8).view(-1, 1, 1))  # past 255 it starts again at 0
    angle = (angle * 6.0).div_(255)  # in sixths: [0, 6]
    chroma = chroma.div_(value.clamp(min=1)).mul_(255).floor_().div_(255).mul_(value)
    value.add_(0.5)  # to be cut off
    without = torch.sub(value, chroma, alpha=2)
    turned = torch.empty_like(images)
    turned[:, 0] = torch.addcmul(without, chroma, (angle - 3).abs_().clamp_(1, 2)).short()
    value.add_(chroma)
    for channel, place in ((1, 2), (2, 4)):  # green and blue are whole around these sixths of the circle
        share = (angle - place).abs_().clamp_(1, 2)
        turned[:, channel] = torch.addcmul(value, chroma, share, value=-1).short()
    return turned


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert every value at or above the threshold."""
    brightest_kept = _per_image(threshold.ceil().clamp(0, 256) - 1).short()
    above = (brightest_kept - images.short()) >> 15  # all bits, by the sign, or none
    return images ^ above.to(torch.uint8)  # 255 - x is x ^ 255


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` bits (1 to 8, rounded down) of each value."""
    return images & _per_image(256 - 2 ** (8 - bits.int())).to(torch.uint8)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel from its darkest to black and its brightest to white; a flat channel stays."""
    low, high = images.amin(dim=(2, 3), keepdim=True).double(), images.amax(dim=(2, 3), keepdim=True).double()
    scale = torch.full_like(low, 255) / (high - low)  # `255 / x` would multiply by a rounded reciprocal
    scale = scale.where(high > low, 1)
    offset = (-low * scale).where(high > low, 0)
    return _cut_off(images.double().mul_(scale).add_(offset))


def equalize(images: Tensor) -> Tensor:
    """Equalise each channel's histogram by Pillow's integer rule; a channel of one value stays."""
    channels = images.flatten(2).flatten(0, 1).long()  # (B*3, H*W)
    ones = channels.new_ones((), dtype=torch.int32).expand_as(channels)
    histogram = ones.new_zeros(len(channels), 256).scatter_add_(1, channels, ones)
    count_of_brightest = histogram.gather(1, channels.amax(dim=1, keepdim=True))  # (B*3, 1)
    step = (channels.shape[1] - count_of_brightest) // 255
    below = histogram.cumsum(dim=1) - histogram  # pixels darker than each level
    table = ((step // 2 + below) / step.clamp(min=1)).clamp_(max=255)  # (B*3, 256)
    table = _cut_off(table.where(step > 0, torch.arange(256, device=images.device)))
    return table.gather(1, channels).view_as(images)


def affine_matrix(*entries: Tensor | float) -> Tensor:
    """(B, 6) float64 on the CPU from the six entries of a matrix, numbers or (B,) tensors."""
    entries = [torch.as_tensor(entry, dtype=torch.float64) for entry in entries]
    return torch.stack(torch.broadcast_tensors(*entries), dim=1)


def rotation(angle: Tensor, height: int, width: int) -> Tensor:
    """(B, 6), the matrix of Image.rotate. angle: (B,), degrees, counter-clockwise about the centre."""
    angle = -torch.deg2rad(angle.double())
    cos, sin, x, y = angle.cos(), angle.sin(), width / 2, height / 2
    return affine_matrix(cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)


def affine_nearest(images: Tensor, matrix: Tensor) -> Tensor:
    """Image.transform(AFFINE, NEAREST), black outside, in Pillow's 16.16 fixed point.

    matrix: (B, 6) float64 (a, b, c, d, e, f): output pixel (x, y) shows input (ax + by + c, dx + ey + f)."""
    height, width = images.shape[2:]
    a, b, c, d, e, f = matrix.double().unbind(dim=1)
    fixed = torch.stack([a, b, c + 0.5 * (a + b), d, e, f + 0.5 * (d + e)], dim=1)
    a, b, c, d, e, f = (fixed * 65536 + 0.5).floor().int().view(-1, 6, 1, 1).unbind(dim=1)
    x = torch.arange(width, device=images.device, dtype=torch.int32).view(1, 1, -1)
    y = torch.arange(height, device=images.device, dtype=torch.int32).view(1, -1, 1)
    column, row = (a * x + c + b * y) >> 16, (d * x + f + e * y) >> 16  # (B, H, W)
    column, row = column.clamp_(-1, width).add_(1), row.clamp_(-1, height).add_(1)  # within a black border
    source = row.mul_(width + 2).add_(column).flatten(1).long()  # (B, H*W)
    bordered = F.pad(images, (1, 1, 1, 1)).flatten(2)
    return bordered.gather(2, source[:, None].expand(-1, images.shape[1], -1)).view_as(images)


def affine_bilinear(images: Tensor, matrix: Tensor) -> Tensor:
    """Image.transform(AFFINE, BILINEAR), black outside; matrix as for `affine_nearest`."""
    height, width = images.shape[2:]
    matrix = matrix.float().view(-1, 2, 3)
    x = torch.arange(width, device=images.device).expand(height, -1) + 0.5
    y = torch.arange(height, device=images.device).view(-1, 1).expand(-1, width) + 0.5
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1)  # (H, W, 3): pixel centres
    points = (points.view(1, -1, 3) @ matrix.transpose(1, 2)).view(-1, height, width, 2)  # in the input
    size = constant((width, height), images.device)
    x, y = points.unbind(dim=-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)  # (B, H, W)
    moved = F.grid_sample(images.float(), 2 * points / size - 1, padding_mode="border", align_corners=False)
    moved = _cut_off(moved + 1e-3)  # truncated, as in Pillow, but 254.9999 is white
    return moved * inside[:, None]


def resize(images: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    """Image.resize by `bilinear` or `bicubic`, antialiased: (B, 3, height, width).

    Across, then down: as in Pillow, what bicubic overshoots is cut off after each."""
    for size in ((images.shape[2], width), (height, width)):
        resized = F.interpolate(images.float(), size, mode=interpolation, antialias=True)
        images = _cut_off(resized.add_(0.5))
    return images


def _triangle_weights(start: Tensor, length: Tensor, size: int, pixels: int) -> Tensor:
    """(B, size, pixels): Pillow's antialiased bilinear filter, output from input pixels of the box."""
    scale = (length / size).view(-1, 1, 1)
    center = (torch.arange(size, device=start.device) + 0.5).view(1, -1, 1) * scale
    position = torch.arange(pixels, device=start.device).view(1, 1, -1) - start.view(-1, 1, 1)
    weights = (1 - (position + 0.5 - center).abs() / scale.clamp(min=1)).clamp_(min=0)
    weights = weights * ((position >= 0) & (position < length.view(-1, 1, 1)))
    return weights / weights.sum(dim=2, keepdim=True)


def _enlarge(images: Tensor, box: Tensor, size: int) -> Tensor:
    """Bilinear: each pixel from its two neighbors in each direction, none from outside the box."""
    corner, lengths = box[:, :2, None], box[:, 2:, None]  # (B, 2, 1)
    place = (torch.arange(size, device=box.device) + 0.5) * (lengths / size) - 0.5  # (B, 2, size), in the box
    place = torch.minimum(place.clamp(min=0), lengths - 1) + corner
    pixels = constant(tuple(images.shape[2:]), box.device).view(2, 1)
    down, across = ((2 * place + 1) / pixels - 1).unbind(dim=1)  # (B, size) each, -1 to 1 from edge to edge
    points = torch.view_as_real(across[:, None, :] + 1j * down[:, :, None])  # (B, size, size, 2)
    enlarged = F.grid_sample(images.float(), points, padding_mode="border", align_corners=False)
    return _cut_off(enlarged.add_(0.5))


def _shrink(images: Tensor, box: Tensor, size: int) -> Tensor:
    """Bilinear and antialiased: each pixel from all that it covers."""
    batch, channels, height, width = images.shape
    top, left, box_height, box_width = box.unbind(dim=1)
    across = _triangle_weights(left, box_width, size, width)  # (B, size, W)
    down = _triangle_weights(top, box_height, size, height)  # (B, size, H)
    narrowed = torch.bmm(images.float().reshape(batch, -1, width), across.transpose(1, 2))  # (B, 3*H, size)
    narrowed = narrowed.view(batch, channels, height, size).transpose(1, 2).reshape(batch, height, -1)
    resized = torch.bmm(down, narrowed).view(batch, size, channels, size).transpose(1, 2)
    return _cut_off(resized + 0.5).contiguous()  # (B, 3, size, size)


def resized_crop(images: Tensor, box: Tensor, size: int) -> Tensor:
    """Crop each image to its box and resize it to (size, size): bilinear, antialiased where a side shrinks.

    box: (B, 4) top, left, height, width, whole numbers inside the image, on the CPU. Only boxes that shrink
    take the slower of two ways: a result must not depend on the other boxes."""
    shrinks = (box[:, 2:] > size).any(dim=1)
    box, number = sent(box.float(), images.device), int(shrinks.sum())
    if number in (0, len(box)):
        return (_shrink if number else _enlarge)(images, box, size)
    both = sent(shrinks.int().argsort(stable=True), images.device).split([len(box) - number, number])
    resized = images.new_empty(*images.shape[:2], size, size)
    for rows, resize in zip(both, (_enlarge, _shrink), strict=True):
        resized[rows] = resize(images[rows], box[rows], size)
    return resized
