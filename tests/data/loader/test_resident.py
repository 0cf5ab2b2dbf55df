"""Which images are in a batch, in which order, and what the random numbers depend on.

Image i of `numbered_images` has the value i all over, and `PLAIN` leaves it so: a view tells its image."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from data.augment import apply
from data.augment.crops import HorizontalFlip, RandomCrop, RandomResizedCrop
from data.augment.steps import Cutout
from data.dataset import ResidentDataset
from data.loader import build_loader
from data.loader import resident as loader_module
from data.loader.base import seeded_generator
from tests.data.loader.batches import AS_IT_IS, epoch_of, indices, same, who
from utils.errors import UserError

PLAIN = (AS_IT_IS,)
RANDOM = (RandomResizedCrop(6), HorizontalFlip(), AS_IT_IS, Cutout(1, 4))


def numbered_images(count=50):
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous()
    return ResidentDataset(images, torch.arange(count) % 10, [str(name) for name in range(10)])


def equal_images(count=50):
    image = torch.randint(256, (1, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ResidentDataset(image.expand(count, -1, -1, -1).contiguous(), None, [])


# -- training


def test_training_takes_every_image_once_in_another_order_each_epoch():
    loader = build_loader(numbered_images(), [PLAIN], 10, train=True)
    orders = [indices(epoch_of(loader, epoch)).tolist() for epoch in range(4)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in [*orders, range(50)]}) == 5


@pytest.mark.parametrize(
    ("train", "batch_size", "sizes"),
    [(True, 8, [8] * 6), (True, 50, [50]), (False, 8, [8] * 6 + [2]), (False, 64, [50])],
)
def test_training_drops_the_last_incomplete_batch_and_evaluation_takes_all_in_order(train, batch_size, sizes):
    loader = build_loader(numbered_images(), [PLAIN], batch_size, train=train)
    found = epoch_of(loader)
    assert len(loader) == len(sizes)
    assert [len(batch.index) for batch in found] == [len(batch.views[0]) for batch in found] == sizes
    assert len(indices(found).unique()) == sum(sizes)
    assert train or indices(found).tolist() == list(range(50))


def test_each_image_is_among_the_dropped_equally_often():
    loader = build_loader(numbered_images(10), [PLAIN], 8, train=True)
    taken = torch.cat([indices(epoch_of(loader, epoch)) for epoch in range(300)])
    dropped = 300 - taken.bincount(minlength=10)
    assert dropped.sum() == 600
    assert stats.chisquare(dropped).pvalue > 1e-4


@pytest.mark.parametrize("train", [True, False], ids=["training", "evaluation"])
def test_views_and_targets_are_those_of_the_image_that_index_names(train):
    for batch in epoch_of(build_loader(numbered_images(), [PLAIN, PLAIN], 8, train=train)):
        assert batch.index.dtype == batch.target.dtype == torch.int64
        assert [view.dtype for view in batch.views] == [torch.float32] * 2
        assert all(view.is_contiguous(memory_format=torch.channels_last) for view in batch.views)
        assert all(torch.equal(who(view), batch.index) for view in batch.views)
        assert torch.equal(batch.target, batch.index % 10)


def test_a_batch_larger_than_the_training_set_is_a_user_error_naming_both_numbers():
    with pytest.raises(UserError, match=r"batch_size 51 .*50"):
        build_loader(numbered_images(), [PLAIN], 51, train=True)


# -- what the random numbers depend on


def test_another_seed_or_epoch_gives_another_order_and_other_views():
    def first_batch(dataset, seed, epoch):
        return epoch_of(build_loader(dataset, [RANDOM], 8, train=True, seed=seed), epoch)[0]

    runs = list(itertools.product([0, 1], [0, 1]))  # (0, 1) and (1, 0) differ as well
    orders = {tuple(first_batch(numbered_images(), *run).index.tolist()) for run in runs}
    views = torch.stack([first_batch(equal_images(), *run).views[0].flatten() for run in runs])
    assert len(orders) == len(views.unique(dim=0)) == 4


def test_a_step_depends_neither_on_earlier_passes_nor_on_the_global_random_state():
    loader, other = (build_loader(numbered_images(), [RANDOM] * 2, 8, train=True, seed=3) for _ in range(2))
    right = epoch_of(loader, 5)
    epoch_of(other, 4)
    assert same(right, epoch_of(other, 5))
    for steps in (1, 3):  # passes left in their middle
        loader.set_epoch(5)
        assert same(right[:steps], itertools.islice(loader, steps))
    state, disturbed = torch.get_rng_state(), []
    loader.set_epoch(5)
    for batch in loader:
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(len(disturbed))
        state = torch.get_rng_state()
        disturbed.append(batch)
    assert same(right, disturbed)


@pytest.mark.parametrize("neighbors", [None, torch.arange(50)[:, None]], ids=["none", "the image itself"])
def test_steps_and_views_draw_different_numbers_for_equal_images(neighbors):
    loader = build_loader(equal_images(), [RANDOM] * 2, 8, train=True, neighbors=neighbors)
    views = [torch.cat(batch.views).flatten(1) for batch in loader]  # (16, D) each
    assert len(torch.stack([view[0] for view in views]).unique(dim=0)) == 6
    assert len(views[0].unique(dim=0)) == 16


def test_labels_change_neither_the_order_nor_a_view_and_without_labels_the_target_is_none():
    dataset = numbered_images()
    others = [ResidentDataset(dataset.images, targets, []) for targets in (dataset.targets.flip(0), None)]
    right, *found = (epoch_of(build_loader(each, [RANDOM] * 2, 8, train=True)) for each in (dataset, *others))
    assert all(same(right, batches) for batches in found)
    assert found[-1][0].target is None


def test_a_seeded_generator_depends_on_every_number_of_its_key_and_on_their_order():
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 2), (5, 1, 2), (5, 2, 1)]
    drawn = [tuple(torch.rand(4, generator=seeded_generator(*key)).tolist()) for key in [*keys, keys[0]]]
    assert drawn[-1] == drawn[0]
    assert len(set(drawn)) == len(keys)


def test_pytorch_takes_32_bits_of_a_seed_so_a_seeded_generator_uses_no_more():
    low, high = np.random.SeedSequence((3, 1, 4)).generate_state(2).tolist()
    whole = torch.Generator().manual_seed(high << 32 | low)
    assert torch.equal(torch.rand(4, generator=seeded_generator(3, 1, 4)), torch.rand(4, generator=whole))


# -- several steps, augmented in one call


@pytest.mark.parametrize(("size", "steps"), [(4, 3), (8, 3), (16, 1), (64, 1)])
def test_as_many_steps_are_augmented_in_one_call_as_their_views_may_take(size, steps, monkeypatch):
    calls, bytes_of_a_step = [], 8 * 3 * 8 * 8 * 4  # images of 8 x 8
    monkeypatch.setattr(loader_module, "AT_ONCE", 2 * 3 * bytes_of_a_step)  # two views
    monkeypatch.setattr(loader_module, "apply", lambda *each: calls.append(len(each[1])) or apply(*each))
    views = [(RandomResizedCrop(size), AS_IT_IS)] * 2
    assert len(epoch_of(build_loader(equal_images(), views, 8, train=True))) == 6
    assert calls == [8 * steps] * (2 * 6 // steps)


@pytest.mark.parametrize("group", [1, 4, 100])
def test_neither_the_number_of_steps_in_a_call_nor_the_first_step_changes_a_view(group):
    noise = torch.randint(256, (200, 3, 16, 16), generator=seeded_generator(0), dtype=torch.uint8)
    crop = RandomResizedCrop(14, scale=(0.1, 0.9))  # some boxes are larger than 14 pixels, most are smaller
    views = [(crop, AS_IT_IS), (HorizontalFlip(), AS_IT_IS)]
    loader = build_loader(ResidentDataset(noise, None, []), views, 8, train=True, neighbors=neighbors_of(200))
    loader.group = 25
    whole = epoch_of(loader, 3)
    loader.group = group
    for first in (0, 1, 7, 24):
        assert same(whole[first:], epoch_of(loader, 3, first))


# -- neighbors

OFFSETS = [0, 3, 7, 11]  # column 0 is the image itself


def neighbors_of(count):
    return (torch.arange(count)[:, None] + torch.tensor(OFFSETS)) % count  # (N, T+1)


def drawn_offsets(epoch, seed=0):
    """int64 (50,): how far the second view's image is from the first one's, image by image."""
    options = {"train": True, "neighbors": neighbors_of(50), "seed": seed}
    offsets = torch.empty(50, dtype=torch.int64)
    for batch in epoch_of(build_loader(numbered_images(), [PLAIN] * 2, 10, **options), epoch):
        anchors, neighbors = map(who, batch.views)
        assert torch.equal(anchors, batch.index)
        offsets[batch.index] = (neighbors - anchors) % 50
    return offsets


def test_the_second_view_shows_one_of_the_images_row_each_column_equally_often_anew_each_epoch():
    drawn = torch.stack([drawn_offsets(epoch) for epoch in range(40)])
    found, counts = drawn.unique(return_counts=True)
    assert found.tolist() == OFFSETS
    assert stats.chisquare(counts).pvalue > 1e-4
    assert all(len(epoch.unique()) == 4 for epoch in drawn)
    assert all(len(image.unique()) == 4 for image in drawn.T)
    assert torch.equal(drawn_offsets(7), drawn[7])
    assert not torch.equal(drawn_offsets(7, seed=1), drawn[7])


def test_a_transform_that_does_not_fit_the_images_is_refused_when_the_loader_is_built():
    with pytest.raises(UserError, match=r"crop_size 9 .*8 x 8"):
        build_loader(numbered_images(), [(RandomCrop(9), *PLAIN)], 8, train=True)
