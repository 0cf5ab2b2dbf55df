"""CPU milliseconds an image to check, decode and crop JPEGs of 500 x 375 px, as the workers of a streamed loader do.

OMP_NUM_THREADS=1 python benchmarks/reading.py
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.augment import train_strategy, val_strategy
from data.image_files import StreamedDataset, fault_of, read_image
from data.streamed_loader import StreamedLoader
from utils.config import load_config

IMAGES, PASSES = 100, 5
CLUSTERING, LABELLING = (f"configs/{path}_imagenet_50.yml" for path in ("scan/scan", "selflabel/selflabel"))


def write_photographs(folder: Path) -> StreamedDataset:
    """scikit-learn's two photographs, upright and lying, mirrored and not."""
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    names = [f"{number}.JPEG" for number in range(IMAGES)]
    for number, name in enumerate(names):
        image = photographs[number % 2].resize((500, 375) if number % 4 else (375, 500))
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 3 else image
        image.save(folder / name, quality=95)
    sizes = np.array([(folder / name).stat().st_size for name in names])
    return StreamedDataset(folder, np.array([name.encode() for name in names]), sizes, None, [])


def milliseconds(act: Callable[[int], object]) -> str:
    """Median, lowest and highest of the passes over all images."""
    passes = []
    for _ in range(PASSES):
        start = time.process_time()
        for image in range(IMAGES):
            act(image)
        passes.append(1000 * (time.process_time() - start) / IMAGES)
    return f"{np.median(passes):.2f} ({min(passes):.2f} to {max(passes):.2f})"


def main() -> None:
    torch.set_num_threads(1)
    scan, selflabel = (load_config(None, path) for path in (CLUSTERING, LABELLING))
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_photographs(Path(folder))

        def views(strategies: list, shift: int = 0) -> Callable[[int], object]:
            images = StreamedLoader(dataset, strategies, 1, "cpu").reader.dataset
            return lambda i: images[0, i, (i, (i + shift) % IMAGES)[: len(strategies)]]

        jittered = [train_strategy(scan)] * 2
        cases = {
            "check that it can be read": lambda i: fault_of(dataset.path(i)),
            "decode and resize": lambda i: read_image(dataset.path(i)),
            "plain view": views([val_strategy(scan)]),
            "two `simclr` views of one image": views(jittered),
            "two `simclr` views of two images": views(jittered, shift=7),
            "plain view and `ours` of one image": views([val_strategy(selflabel), train_strategy(selflabel)]),
        }
        print(f"{dataset.marks.mean() / 1000:.0f} kB an image\n\n| what | ms an image |\n| --- | --- |")
        for name, act in cases.items():
            print(f"| {name} | {milliseconds(act)} |")


if __name__ == "__main__":
    main()
