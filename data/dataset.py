"""What every data set offers: who the images are. How they are drawn and augmented is the loader's business."""

from dataclasses import dataclass

from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class ResidentDataset:
    """A split held in memory.

    images: uint8 (N, 3, H, W). targets: int64 (N,), -1 where unknown, or None when nothing is labelled; they are for
    evaluation alone. classes: the names that targets count."""

    images: Tensor
    targets: Tensor | None
    classes: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def get_image(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index].permute(1, 2, 0).numpy())
