"""Images in files go through the same loader: who is in a batch, what the crops depend on, and where they are made."""

import gc
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as pillow

from data import dataset as image_files
from data.augment import train_transform, val_transform
from data.augment.crops import CenterCrop, HorizontalFlip, RandomCrop, RandomResizedCrop
from data.augment.steps import ColorJitter, Normalize, RandomAffine
from data.dataset import ResidentDataset, StreamedDataset
from data.image_files import read_image
from data.loader import build_loader
from data.loader import streamed as streamed_loader
from data.loader.base import seeded_generator
from tests.image_trees import picture
from utils.config import load_config
from utils.errors import RunError, UserError

AS_IT_IS = Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
SMALL = (CenterCrop(8), AS_IT_IS)
RANDOM = (RandomResizedCrop(8), HorizontalFlip(), AS_IT_IS)
COUNT = 150  # more than two chunks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of one colour each, its number in red, of many sizes."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(COUNT):
        Image.new("RGB", (10 + number % 7, 9 + number % 5), (number, 100, 200)).save(
            folder / f"{number:03d}.png"
        )
    return folder


def of(folder, num_workers=0):
    files = np.array([f"{number:03d}.png".encode() for number in range(COUNT)])
    targets, names = torch.arange(COUNT) % 10, [str(name) for name in range(10)]
    return StreamedDataset(folder, files, np.zeros(COUNT, int), targets, names, num_workers)


@pytest.fixture
def dataset(folder):
    return of(folder)


@pytest.fixture
def coloured(tmp_path):
    """Twelve pictures whose places can be told apart."""
    for number in range(12):
        picture(number, 270 + number, 300).save(tmp_path / f"{number:02d}.png")
    files = np.array([f"{number:02d}.png".encode() for number in range(12)])
    return StreamedDataset(tmp_path, files, np.zeros(12, int), None, [])


def who(view):
    return (view[:, 0] * 255).round().long()[:, 4, 4]


def epoch_of(loader, epoch=0, first_step=0):
    loader.set_epoch(epoch, first_step)
    return list(loader)


def same(batches, others):
    return all(
        torch.equal(batch.index, other.index) and all(map(torch.equal, batch.views, other.views))
        for batch, other in zip(batches, others, strict=True)
    )


# -- who is in a batch: as from memory


def test_evaluation_takes_every_image_once_in_order_and_training_drops_the_rest(dataset):
    batches = list(build_loader(dataset, [SMALL], 70))
    assert [len(batch.index) for batch in batches] == [70, 70, 10]
    assert torch.equal(torch.cat([batch.index for batch in batches]), torch.arange(COUNT))
    assert all(torch.equal(who(batch.views[0]), batch.index) for batch in batches)
    assert all(torch.equal(batch.target, batch.index % 10) for batch in batches)
    assert [len(batch.index) for batch in build_loader(dataset, [SMALL], 70, train=True)] == [70, 70]


def test_batches_neighbors_and_epochs_are_those_of_the_same_images_in_memory(dataset):
    resident = ResidentDataset(
        torch.zeros(COUNT, 3, 8, 8, dtype=torch.uint8), dataset.targets, dataset.classes
    )
    neighbors = torch.stack([(torch.arange(COUNT) + shift) % COUNT for shift in (0, 11, 29)], dim=1)
    options = {"train": True, "neighbors": neighbors, "seed": 5}
    streamed, plain = (build_loader(data, [SMALL, SMALL], 40, **options) for data in (dataset, resident))
    for epoch in range(2):
        for batch, other in zip(epoch_of(streamed, epoch), epoch_of(plain, epoch), strict=True):
            assert torch.equal(batch.index, other.index) and torch.equal(who(batch.views[0]), batch.index)
            assert all(who(batch.views[1])[i] in neighbors[image] for i, image in enumerate(batch.index))
    steps = list(streamed.steps(0))
    assert all(torch.equal(who(b.views[1]), step.sources[1]) for b, step in zip(streamed, steps, strict=True))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_pass_that_goes_on_in_its_middle_gives_the_batches_of_a_whole_one(folder, num_workers):
    loader = build_loader(of(folder, num_workers), [RANDOM, SMALL], 40, train=True)
    whole = epoch_of(loader, 3)
    assert same(epoch_of(loader, 3, first_step=2), whole[2:])
    loader.set_epoch(3)
    stopped = iter(loader)
    next(stopped)  # left in its middle, with images on their way
    assert same(epoch_of(loader, 3), whole)


def test_worker_processes_give_the_batches_that_the_process_itself_gives(folder):
    loaders = [build_loader(of(folder, workers), [RANDOM, RANDOM], 40, train=True) for workers in (0, 1, 2)]
    for loader in loaders[1:]:
        assert same(epoch_of(loader, 0), epoch_of(loaders[0], 0))
        assert same(epoch_of(loader, 1), epoch_of(loaders[0], 1))


# -- what a view is


def test_a_crop_depends_on_seed_epoch_image_and_view_and_on_nothing_else(coloured):
    crop = (RandomResizedCrop(16), HorizontalFlip())
    loader = build_loader(coloured, [(*crop, AS_IT_IS), (*crop, AS_IT_IS)], 5, train=True, seed=9)
    for batch in epoch_of(loader, 4):
        for view in range(2):
            for image, found in zip(batch.index.tolist(), batch.views[view], strict=True):
                generator = seeded_generator(9, 4, image, view + 1)
                expected = read_image(coloured.path(image))
                for step in crop:
                    expected = step.apply_to_image(expected, step.draw(1, generator)[0])
                assert torch.equal(found, pillow.to_tensor(expected))


@pytest.mark.parametrize("width, height", [(300, 256), (256, 341)])
@pytest.mark.parametrize("seed", range(5))
def test_single_images_are_cropped_as_batches_are(width, height, seed):
    image = picture(seed, width, height)
    batch = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].contiguous()
    for step in (
        RandomResizedCrop(64),
        RandomResizedCrop(224),
        HorizontalFlip(),
        RandomCrop(224),
        CenterCrop(224),
    ):
        values = step.draw(1, seeded_generator(seed)) if step.columns else torch.empty(1, 0)
        one = torch.from_numpy(np.array(step.apply_to_image(image, values[0]))).permute(2, 0, 1)
        difference = (one.int() - step.apply(batch, values)[0].int()).abs()
        assert difference.max() <= 1  # Pillow rounds after each of its two passes


def test_the_plain_view_is_torchvisions_centre_crop_of_short_side_256(coloured):
    cfg = load_config(None, "configs/pretext/moco_imagenet50.yml")
    (batch,) = build_loader(coloured, [val_transform(cfg.transformation_kwargs)], 12)
    for image, found in zip(batch.index.tolist(), batch.views[0], strict=True):
        expected = pillow.center_crop(pillow.resize(picture(image, 270 + image, 300), 256), 224)
        expected = pillow.normalize(pillow.to_tensor(expected), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("experiment", ["scan/scan_imagenet_50", "selflabel/selflabel_imagenet_50"])
def test_the_published_strategies_give_224_px_views_each_its_own(coloured, experiment):
    cfg = load_config(None, f"configs/{experiment}.yml")
    strategy = train_transform(cfg.augmentation_strategy, cfg.augmentation_kwargs)
    (batch,) = build_loader(coloured, [strategy, strategy], 12, train=True)
    first, second = batch.views
    assert first.shape == second.shape == (12, 3, 224, 224) and first.isfinite().all()
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_the_crop_of_a_neighbor_is_seeded_by_its_anchor(coloured):
    neighbors = torch.stack([torch.arange(12), (torch.arange(12) + 5) % 12], dim=1)
    crop = RandomResizedCrop(16)
    views = [(crop, AS_IT_IS), (crop, AS_IT_IS)]
    loader = build_loader(coloured, views, 4, train=True, neighbors=neighbors, seed=9)
    for batch, step in zip(loader, loader.steps(0), strict=True):
        for anchor, shown, found in zip(
            batch.index.tolist(), step.sources[1].tolist(), batch.views[1], strict=True
        ):
            values = crop.draw(1, seeded_generator(9, 0, anchor, 2))[0]
            expected = crop.apply_to_image(read_image(coloured.path(shown)), values)
            assert torch.equal(found, pillow.to_tensor(expected))


def test_colours_differ_between_views_steps_and_epochs(coloured):
    jitter = (CenterCrop(8), ColorJitter(1.0, brightness=0.5), AS_IT_IS)
    loader = build_loader(coloured, [jitter, jitter], 6, train=True, seed=2)
    seen = []
    for epoch in range(2):
        for batch in epoch_of(loader, epoch):
            (place,) = (batch.index == batch.index.min()).nonzero()[0]
            plain = pillow.to_tensor(
                pillow.center_crop(read_image(coloured.path(int(batch.index[place]))), 8)
            )
            seen += [(view[place].mean() / plain.mean()).item() for view in batch.views]
    assert min(abs(a - b) for i, a in enumerate(seen) for b in seen[:i]) > 1e-3  # 8 brightnesses


def test_no_two_streams_of_an_epoch_are_the_same():
    keys = [(3, 1, 0), *((3, 1, step + 1) for step in range(4))]  # the order, and the steps
    keys += [(3, 1, image, view + 1) for image in range(4) for view in range(2)]  # the crops
    streams = {tuple(torch.rand(4, generator=seeded_generator(*key)).tolist()) for key in keys}
    assert len(streams) == len(keys)


def test_the_workers_end_with_the_loader(folder):
    gc.disable()
    try:
        loader = build_loader(of(folder, 2), [SMALL], 40, train=True)
        list(loader)
        workers = multiprocessing.active_children()
        assert len(workers) == 2
        del loader
        assert not [worker for worker in workers if worker.is_alive()]
    finally:
        gc.enable()


def test_workers_hear_no_signal_that_is_for_the_group_of_their_parent_and_can_be_ended(folder):
    loader = build_loader(of(folder, 2), [SMALL], 40, train=True)
    list(loader)
    workers = multiprocessing.active_children()
    assert {os.getpgid(worker.pid) for worker in workers}.isdisjoint({os.getpgid(0)})
    os.kill(workers[0].pid, signal.SIGINT)
    list(loader)
    assert all(worker.is_alive() for worker in workers)
    del loader
    assert not any(worker.is_alive() for worker in workers)


def test_another_error_than_a_lost_worker_is_not_said_to_be_one():
    assert streamed_loader.lost_worker(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) == ""
    assert "lower num_workers" in streamed_loader.lost_worker(
        RuntimeError("Pin memory thread exited unexpectedly")
    )


def test_an_image_that_both_views_show_is_decoded_once(dataset, monkeypatch):
    read = []
    monkeypatch.setattr(image_files, "read_image", lambda path: read.append(path) or read_image(path))
    loader = build_loader(dataset, [SMALL, RANDOM], 50)
    read.clear()
    list(loader)
    assert len(read) == len(set(read)) == COUNT


# -- what goes wrong


def test_views_that_the_images_do_not_allow_are_refused_before_the_first_batch(dataset):
    with pytest.raises(UserError, match="crop_size 257 is larger than the images"):
        build_loader(dataset, [(CenterCrop(257), AS_IT_IS)], 10)
    with pytest.raises(UserError, match=r"begin with RandomAffine, which takes images of one size"):
        build_loader(dataset, [(RandomAffine(10, (1, 1), (1, 1), 0.1, 0.1), AS_IT_IS)], 10)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_file_that_was_spoiled_since_ends_the_run_with_its_name(tmp_path, num_workers):
    for number in range(COUNT):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{number:03d}.png")
    loader = build_loader(of(tmp_path, num_workers), [SMALL], 10)
    (tmp_path / "123.png").write_bytes(b"")
    with pytest.raises(RunError, match=r"123\.png cannot be read \(no image that Pillow knows\)") as error:
        list(loader)
    assert "\n" not in str(error.value)


def test_a_worker_that_dies_ends_the_run_with_what_to_do(folder, monkeypatch):
    loader = build_loader(of(folder, 1), [SMALL], 10)
    monkeypatch.setattr(image_files, "read_image", lambda path: os._exit(1))
    with pytest.raises(RunError, match=r"a process that reads images died .*lower num_workers .*/dev/shm"):
        list(loader)
