"""The strong set of SCAN (arXiv:2005.12320): 14 operations, each with its range of magnitudes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.augment import image_ops
from data.augment.image_ops import affine_matrix
from data.augment.steps import apply_by_kind, uniform
from utils.device import sent

_OPERATIONS = {  # name: lowest and highest magnitude, operation(images, magnitude)
    "identity": (0, 0, lambda images, _: images),
    "autocontrast": (0, 0, lambda images, _: image_ops.autocontrast(images)),
    "equalize": (0, 0, lambda images, _: image_ops.equalize(images)),
    "solarize": (0, 256, image_ops.solarize),
    "posterize": (4, 8, image_ops.posterize),
    "color": (0.05, 0.95, image_ops.saturation),
    "contrast": (0.05, 0.95, image_ops.contrast),
    "brightness": (0.05, 0.95, image_ops.brightness),
    "sharpness": (0.05, 0.95, image_ops.sharpness),
}
_MOVES = {  # name: lowest and highest magnitude, matrix(magnitude, height, width) for `affine_nearest`
    "shear x": (-0.1, 0.1, lambda shear, height, width: affine_matrix(1, shear, 0, 0, 1, 0)),
    "shear y": (-0.1, 0.1, lambda shear, height, width: affine_matrix(1, 0, 0, shear, 1, 0)),
    "translate x": (-0.1, 0.1, lambda share, height, width: affine_matrix(1, 0, share * width, 0, 1, 0)),
    "translate y": (-0.1, 0.1, lambda share, height, width: affine_matrix(1, 0, 0, 0, 1, share * height)),
    "rotate": (-30, 30, image_ops.rotation),
}
STRONG_OPERATIONS = _OPERATIONS | _MOVES


@dataclass(frozen=True)
class StrongOperations:
    """`number` operations of the strong set, drawn with replacement, each with its own magnitude."""

    number: int

    @property
    def columns(self) -> int:
        return 2 * self.number  # which operations, then their magnitudes

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        low, high = torch.tensor([entry[:2] for entry in STRONG_OPERATIONS.values()]).T  # (14,) each
        chosen = torch.randint(len(low), (batch, self.number), generator=generator)
        return torch.cat([chosen.float(), uniform(low[chosen], high[chosen], chosen.shape, generator)], dim=1)

    def apply(self, images: Tensor, values: Tensor) -> Tensor:
        chosen, magnitude = values[:, : self.number].long(), values[:, self.number :].double()
        moves = [matrix(magnitude.flatten(), *images.shape[2:]) for *_, matrix in _MOVES.values()]
        first_move = len(_OPERATIONS)  # all moves are applied together, as one kind of operation
        which = (chosen.flatten() - first_move).clamp(min=0)  # the matrices of other operations are not used
        matrix = torch.stack(moves)[which, torch.arange(len(which))].view(*chosen.shape, 6)
        magnitude, matrix = sent(magnitude.float(), images.device), sent(matrix, images.device)
        operations = [(operation, magnitude) for *_, operation in _OPERATIONS.values()]
        operations.append((image_ops.affine_nearest, matrix))
        return apply_by_kind(images, chosen.clamp(max=first_move), *operations)
