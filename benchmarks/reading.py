"""Reading JPEGs of 500 x 375 px: images/s of the streamed loader, and milliseconds per image of its tasks.

    OMP_NUM_THREADS=1 python benchmarks/reading.py [--images 800]

First table: the loader with two `simclr` views of 224 px, with no worker, one, and one per CPU. Wall time of
a pass, after a first one that starts the workers. `read` is decoding and cropping; `batches` also has the
colour changes, which run in the training process. The limit is what all CPUs would decode if they did nothing
else. Second table: CPU time of the workers' tasks, median of five passes over 100 images, with lowest and
highest."""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.table import Spread, Table, parser, save, spread
from benchmarks.timing import prepare, seconds
from data.augment import draw, train_transform, val_transform
from data.dataset import StreamedDataset
from data.image_files import fault_of, read_image
from data.loader.streamed import StreamedLoader
from utils.config import load_config
from utils.device import cpu_count

IMAGES, PASSES, BATCH = 100, 5, 100
CLUSTERING, LABELLING = (f"configs/{path}_imagenet_50.yml" for path in ("scan/scan", "selflabel/selflabel"))


def write_photographs(folder: Path) -> StreamedDataset:
    """scikit-learn's two photographs, upright and landscape, mirrored and not."""
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    names = [f"{number}.JPEG" for number in range(IMAGES)]
    for number, name in enumerate(names):
        image = photographs[number % 2].resize((500, 375) if number % 4 else (375, 500))
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 3 else image
        image.save(folder / name, quality=95)
    sizes = np.array([(folder / name).stat().st_size for name in names])
    return StreamedDataset(folder, np.array([name.encode() for name in names]), sizes, None, [])


def milliseconds(act: Callable[[int], object]) -> Spread:
    """Per image, over the passes."""
    return spread(
        [1000 * seconds(lambda: [act(image) for image in range(IMAGES)]) / IMAGES for _ in range(PASSES)]
    )


def images_per_second(dataset: StreamedDataset, views: list, workers: int) -> tuple[float, float]:
    """Images per second in a pass over the data set: decoded and cropped, and in whole batches."""
    loader, rates = StreamedLoader(replace(dataset, num_workers=workers), views, BATCH, "cpu", True), []
    for batches in (loader, loader.reader, loader):  # the first starts the workers
        start = time.perf_counter()
        for _ in batches:
            pass
        rates.append(len(loader) * BATCH / (time.perf_counter() - start))
    return rates[1], rates[2]


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=800, help="in a pass of the loader")
    arguments = options.parse_args(argv)
    prepare("cpu")
    scan, selflabel = (load_config(None, path) for path in (CLUSTERING, LABELLING))
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_photographs(Path(folder))

        def views(transforms: list, shift: int = 0) -> Callable[[int], object]:
            reader = StreamedLoader(dataset, transforms, 1, "cpu").reader.dataset
            tables = [draw(crops, 1, torch.Generator()).numpy() for crops in reader.crops]
            return lambda i: reader[[np.array([[i, (i + shift) % IMAGES][: len(transforms)]]), *tables]]

        jittered = [train_transform(scan)] * 2
        strong = train_transform(selflabel)
        columns = ("of the decode limit, %", "read, images/s", "limit, images/s", "batches, images/s")
        loaders = Table("loader, workers", *columns)
        many = dataset.select(torch.arange(arguments.images) % IMAGES)
        limit = 1000 * cpu_count() / milliseconds(lambda i: read_image(dataset.path(i))).median
        for workers in dict.fromkeys((0, 1, cpu_count())):
            read, whole = images_per_second(many, jittered, workers)
            loaders.row(workers, 100 * read / limit, read, limit, whole)
        cases = {
            "check that it can be read": lambda i: fault_of(dataset.path(i)),
            "decode and resize": lambda i: read_image(dataset.path(i)),
            "plain view": views([val_transform(scan.transformation_kwargs)]),
            "two `simclr` views of one image": views(jittered),
            "two `simclr` views of two images": views(jittered, shift=7),
            "plain view and `ours` of one image": views(
                [val_transform(selflabel.transformation_kwargs), strong]
            ),
        }
        print(f"\n{dataset.signatures.mean() / 1000:.0f} kB per image\n")
        table = Table("what", "ms per image")
        for name, act in cases.items():
            table.row(name, milliseconds(act))
    save(arguments.json, loaders, table)


if __name__ == "__main__":
    main()
