"""Images in files go through the same loader as images in memory; worker processes read them."""

import gc
import multiprocessing
import os
import select
import signal
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import _utils as pytorch_utils
from torch.utils.data._utils import worker as pytorch_worker
from torchvision.transforms import functional as pillow

from data import dataset as image_files
from data.augment import apply, draw, val_transform
from data.augment.crops import CenterCrop, HorizontalFlip, RandomCrop, RandomResizedCrop, Resize
from data.augment.steps import ColorJitter, RandomAffine
from data.dataset import ResidentDataset, StreamedDataset
from data.image_files import read_image
from data.loader import build_loader
from data.loader.base import seeded_generator
from tests.data.augment.specification import published
from tests.data.loader.batches import AS_IT_IS, epoch_of, same
from tests.image_trees import picture
from utils.config import load_config
from utils.errors import RunError, UserError, lost_worker

SMALL = (CenterCrop(8), AS_IT_IS)
RANDOM = (RandomResizedCrop(8), HorizontalFlip(), ColorJitter(0.8, brightness=0.5), AS_IT_IS)
COUNT = 150  # more than are read at once, twice


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of one colour each, of many sizes."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(COUNT):
        size = (10 + number % 7, 9 + number % 5)
        Image.new("RGB", size, (number, 100, 200)).save(folder / f"{number:03d}.png")
    return folder


def of(folder, num_workers=0, side=None):
    files = np.array(sorted(os.fsencode(path.name) for path in folder.iterdir()))
    targets, names = torch.arange(len(files)) % 10, [str(name) for name in range(10)]
    return StreamedDataset(folder, files, np.zeros(len(files), int), targets, names, num_workers, side)


@pytest.fixture
def coloured(tmp_path):
    """Twelve pictures whose places can be told apart."""
    for number in range(12):
        picture(number, 270 + number, 300).save(tmp_path / f"{number:02d}.png")
    return of(tmp_path)


# -- images of one size: as in memory, to the bit

SIDE, SQUARES = 20, 220


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Pictures of noise, and the same in memory."""
    folder, rng = tmp_path_factory.mktemp("squares"), np.random.default_rng(0)
    for number in range(SQUARES):
        noise = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number:03d}.png")
    dataset = of(folder, side=SIDE)
    pixels = np.stack([np.asarray(dataset.get_image(row)) for row in range(SQUARES)])
    return folder, ResidentDataset(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), None, [])


CROP = "augmentation_kwargs.random_resized_crop"
TRANSFORMS = {
    "simclr": published("pretext/simclr_cifar10", f"{CROP}.size=12", f"{CROP}.scale=[0.1,1.0]"),
    "ours": published("scan/scan_cifar10", "augmentation_kwargs.crop_size=16"),
    "affine": published("pretext/simclr_digits"),
    "plain": SMALL,
    "resized": (Resize(31, "bicubic"), CenterCrop(28), AS_IT_IS),
}


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    "pair", ["simclr simclr", "ours ours", "plain ours", "plain resized", "affine simclr"]
)
def test_images_in_files_and_in_memory_give_the_same_views_to_the_bit(squares, pair, num_workers):
    folder, held = squares
    views, neighbors = [TRANSFORMS[name] for name in pair.split()], torch.arange(SQUARES)[:, None]
    neighbors = None if "plain" in pair else (neighbors + torch.tensor([0, 3, 50])) % SQUARES
    options = {"train": "plain" not in pair, "seed": 5, "neighbors": neighbors}
    in_memory = build_loader(held, views, 70, **options)
    in_files = build_loader(of(folder, num_workers, SIDE), views, 70, **options)
    for epoch, first_step in ((0, 0), (3, 1)):  # a whole pass, and one resumed in its middle
        right = epoch_of(in_memory, epoch)[first_step:]
        assert same(epoch_of(in_files, epoch, first_step), right)
        in_memory.group = 1
        assert same(epoch_of(in_memory, epoch, first_step), right)


# -- images of many sizes: cropped by the workers, with their rows of the same table


@pytest.mark.parametrize("with_neighbors", [False, True])
def test_views_are_the_rows_of_the_steps_table_applied_image_by_image(coloured, with_neighbors):
    neighbors = (torch.arange(12)[:, None] + torch.tensor([0, 5, 7])) % 12 if with_neighbors else None
    loader = build_loader(coloured, [RANDOM, RANDOM], 5, train=True, neighbors=neighbors, seed=9)
    for number, batch in enumerate(epoch_of(loader, 4), start=1):
        generator, shown = seeded_generator(9, 4, number), [batch.index, batch.index]
        if with_neighbors:
            shown[1] = neighbors[batch.index, torch.randint(3, (5,), generator=generator)]
        for view, sources in zip(batch.views, shown, strict=True):
            for found, source, row in zip(view, sources.tolist(), draw(RANDOM, 5, generator), strict=True):
                image = RANDOM[0].apply_to_image(read_image(coloured.path(source)), row[:22])
                image = RANDOM[1].apply_to_image(image, row[22:23])
                expected = apply(RANDOM[2:], pillow.pil_to_tensor(image)[None], row[None, 23:])
                assert torch.equal(found, expected[0])
            assert view.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_pass_and_one_after_an_abandoned_pass_give_the_batches_of_a_whole_one(folder, num_workers):
    whole = epoch_of(build_loader(of(folder), [RANDOM, SMALL], 40, train=True), 3)
    loader = build_loader(of(folder, num_workers), [RANDOM, SMALL], 40, train=True)
    assert same(epoch_of(loader, 3, first_step=2), whole[2:])
    loader.set_epoch(3)
    abandoned = iter(loader)
    next(abandoned)  # with images on their way
    assert same(epoch_of(loader, 3), whole)


@pytest.mark.parametrize("width, height", [(300, 256), (256, 341)])
@pytest.mark.parametrize("size", [64, 224])
def test_single_images_are_cropped_as_batches_are(width, height, size):
    image = picture(0, width, height)
    batch = pillow.pil_to_tensor(image)[None]
    for seed in range(5):
        for step in (RandomResizedCrop(size), HorizontalFlip(), RandomCrop(size), CenterCrop(size)):
            values = draw((step,), 1, seeded_generator(seed))
            one = pillow.pil_to_tensor(step.apply_to_image(image, values[0])).int()
            assert (one - step.apply(batch, values)[0].int()).abs().max() <= 1  # Pillow rounds twice


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [64, 224, 400])
def test_single_images_are_resized_as_batches_are(size, interpolation):
    step, image = Resize(size, interpolation), picture(0, 300, 256)
    batch = step.apply(pillow.pil_to_tensor(image)[None], None)
    off = (pillow.pil_to_tensor(step.apply_to_image(image, None)).int() - batch[0].int()).abs()
    assert off.max() <= 2 and (off > 1).float().mean() < 0.0002


def test_the_plain_view_is_torchvisions_centre_crop_of_short_side_256(coloured):
    cfg = load_config(None, "configs/pretext/moco_imagenet50.yml")
    (batch,) = build_loader(coloured, [val_transform(cfg.transformation_kwargs)], 12)
    for image, found in zip(batch.index.tolist(), batch.views[0], strict=True):
        expected = pillow.center_crop(pillow.resize(picture(image, 270 + image, 300), 256), 224)
        expected = pillow.normalize(pillow.to_tensor(expected), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("resize, read_at", [(100, 256), (320, 320)])
def test_the_plain_view_is_resized_as_asked_and_a_file_is_read_at_a_larger_size(coloured, resize, read_at):
    transform = (Resize(resize, "bicubic"), CenterCrop(96), AS_IT_IS)
    (batch,) = build_loader(replace(coloured, short_side=read_at), [transform], 12)
    for image, found in zip(batch.index.tolist(), batch.views[0], strict=True):
        expected = pillow.resize(picture(image, 270 + image, 300), read_at)
        expected = pillow.resize(expected, resize, pillow.InterpolationMode.BICUBIC)
        assert torch.equal(found, pillow.to_tensor(pillow.center_crop(expected, 96)))


def test_an_image_that_several_views_show_is_decoded_once(folder, monkeypatch):
    read = []
    monkeypatch.setattr(image_files, "read_image", lambda *how: read.append(how) or read_image(*how))
    loader = build_loader(of(folder), [SMALL, RANDOM], 50)
    assert len(read) == 1  # to see whether the transforms fit
    read.clear()
    list(loader)
    assert len(read) == len(set(read)) == COUNT


@pytest.mark.parametrize("device, pins", [("cpu", False), ("cuda", True)])
def test_images_are_read_into_pinned_memory_for_a_gpu_alone(folder, device, pins):
    assert build_loader(of(folder), [SMALL], 10, device).reader.pin_memory is pins


# -- worker processes


def running_workers(folder):
    """A loader that has started two workers, and them."""
    loader = build_loader(of(folder, 2), [SMALL], 40, train=True)
    list(loader)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    return loader, workers


def test_workers_go_on_after_a_signal_to_all_processes_and_end_with_the_loader(folder):
    loader, workers = running_workers(folder)
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
        os.kill(worker.pid, signal.SIGTERM)
    loader.set_epoch(1)
    list(loader)
    assert all(worker.is_alive() for worker in workers)
    gc.disable()
    try:
        del loader
        assert not any(worker.is_alive() for worker in workers)
    finally:
        gc.enable()


@pytest.mark.parametrize("end", ["by an error", "killed"])
def test_workers_end_with_their_parent(folder, end, monkeypatch):
    monkeypatch.setattr(pytorch_worker, "MP_STATUS_CHECK_INTERVAL", 0.1)  # how often they look for it

    def parent():
        parent.loader = running_workers(folder)[0]  # held until the very end
        os.write(writing, b"ready")
        if end == "killed":
            time.sleep(60)
        sys.exit(1)

    reading, writing = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=parent)
    process.start()
    os.close(writing)
    assert os.read(reading, 5) == b"ready"
    if end == "killed":
        process.kill()
    assert select.select([reading], [], [], 20)[0]  # the pipe ends when the last process that holds it does
    assert os.read(reading, 1) == b""
    process.join()


# -- what goes wrong


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="Windows does not fork")
@pytest.mark.parametrize("moment", ["before", "after_in_parent"])
def test_a_signal_in_the_middle_of_the_fork_of_a_worker_is_not_lost(folder, moment):
    class Stop(Exception):
        pass

    def stop(number, _):
        raise Stop

    moments = [signal.SIGTERM]  # a function that was registered stays: it has nothing to do later
    os.register_at_fork(**{moment: lambda: moments and signal.raise_signal(moments.pop())})
    handler = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(Stop):
            running_workers(folder)
        assert signal.getsignal(signal.SIGTERM) is stop
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_transforms_that_the_images_do_not_allow_are_refused_when_the_loader_is_built(folder, squares):
    with pytest.raises(UserError, match="crop_size 257"):
        build_loader(of(folder), [(CenterCrop(257), AS_IT_IS)], 10)
    with pytest.raises(UserError, match="crop_size 21"):
        build_loader(of(squares[0], side=SIDE), [(CenterCrop(21), AS_IT_IS)], 10)
    with pytest.raises(UserError, match=r"RandomAffine .* augmentation_strategy"):
        build_loader(of(folder), [(RandomAffine(10, (1, 1), (1, 1), 0.1, 0.1), AS_IT_IS)], 10)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_file_that_was_spoiled_since_ends_the_run_with_its_name(tmp_path, num_workers, monkeypatch):
    monkeypatch.setattr(pytorch_utils, "MP_STATUS_CHECK_INTERVAL", 0.1)  # how long PyTorch waits for workers
    for number in range(COUNT):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{number:03d}.png")
    loader = build_loader(of(tmp_path, num_workers), [SMALL], 10)
    (tmp_path / "123.png").write_bytes(b"")
    with pytest.raises(RunError, match=r"123\.png") as error:
        list(loader)
    assert "\n" not in str(error.value)
    del error, loader  # here, while PyTorch does not wait 5 s for each worker
    gc.collect()


def test_a_worker_that_dies_ends_the_run_with_what_to_do(folder, monkeypatch):
    loader = build_loader(of(folder, 1), [SMALL], 10)
    monkeypatch.setattr(image_files, "read_image", lambda *_: os._exit(1))
    with pytest.raises(RuntimeError) as error:
        list(loader)
    assert "num_workers" in lost_worker(error.value)  # exit code 3
