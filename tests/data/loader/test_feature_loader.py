"""Cached features in place of views: each view of a batch draws one of the cached views, image by image."""

import pytest
import torch
from scipy import stats

from data.dataset import ResidentDataset
from data.loader import FeatureLoader
from tests.data.loader.batches import epoch_of, same
from utils.errors import UserError

VIEWS, COUNT = 3, 90


def loader_of(neighbors=None, seed=0):
    """Feature [view, image] is 1000 * view + image."""
    features = (1000.0 * torch.arange(VIEWS)[:, None] + torch.arange(COUNT))[:, :, None]
    dataset = ResidentDataset(torch.zeros(COUNT, 3, 1, 1, dtype=torch.uint8), None, [])
    return FeatureLoader(
        features, dataset, [None, None], 10, "cpu", train=True, neighbors=neighbors, seed=seed
    )


def drawn(loader, epochs=1):
    """int64 (2, epochs * COUNT): which cached view each of the two views shows."""
    batches = [batch for epoch in range(epochs) for batch in epoch_of(loader, epoch)]
    return (
        torch.stack([torch.cat([batch.views[i] for batch in batches])[:, 0] for i in (0, 1)]).long() // 1000
    )


def test_the_draws_of_an_anchor_and_of_its_neighbor_are_independent_and_uniform():
    first, second = drawn(loader_of(neighbors=torch.arange(COUNT)[:, None]), epochs=40)
    pairs = (VIEWS * first + second).bincount(minlength=VIEWS**2)
    assert stats.chisquare(pairs).pvalue > 1e-4


def test_draws_depend_on_seed_and_epoch_alone():
    loaders = [loader_of(seed=seed) for seed in (0, 0, 1)]
    assert same(epoch_of(loaders[0], 5), epoch_of(loaders[1], 5))
    assert not torch.equal(drawn(loaders[0]), drawn(loaders[2]))
    assert not torch.equal(*drawn(loaders[0], epochs=2).view(2, 2, COUNT).unbind(dim=1))


def test_training_needs_a_batch_and_its_options_have_names():
    features, dataset = torch.zeros(1, COUNT, 1), loader_of().dataset
    with pytest.raises(UserError, match=rf"batch_size {COUNT + 1} .*{COUNT}"):
        FeatureLoader(features, dataset, [None], COUNT + 1, "cpu", train=True)
    assert len(FeatureLoader(features, dataset, [None], COUNT + 1, "cpu")) == 1
    with pytest.raises(TypeError):
        FeatureLoader(features, dataset, [None], 10, "cpu", True)


def test_a_pass_of_training_needs_an_epoch_of_its_own():
    loader = loader_of()
    first = list(loader)
    with pytest.raises(ValueError, match="set_epoch"):
        list(loader)
    loader.set_epoch(0)
    assert same(list(loader), first)
    loader.set_epoch(1)
    assert not same(list(loader), first)
    in_order = FeatureLoader(loader.features, loader.dataset, [None], 10, "cpu")
    assert len(list(in_order)) == len(list(in_order)) == COUNT // 10
