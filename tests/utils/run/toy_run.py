"""A run of scan's config with a network of three layers and three batches an epoch."""

from types import SimpleNamespace

import torch
from torch import nn

from data.dataset import ResidentDataset
from utils.run.run import Run


def network_and_optimizer():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


class Loader:
    """Three batches an epoch, or batches of the given sizes; other images in each epoch."""

    def __init__(self, *sizes):
        self.sizes = sizes or (8, 8, 8)
        self.batch_size = self.sizes[0]

    def set_epoch(self, epoch, first_step):
        self.epoch, self.first_step = epoch, first_step

    def __len__(self):
        return len(self.sizes)

    def __iter__(self):
        for step, size in list(enumerate(self.sizes))[self.first_step :]:
            images = torch.randn(size, 3, generator=torch.Generator().manual_seed(3 * self.epoch + step))
            yield SimpleNamespace(index=torch.arange(size), images=images)


def train_epoch(run, model, optimizer, epoch, after_batch=lambda epoch, step: None):
    meter = run.meter(Loader(), epoch)
    for batch in meter:
        loss = model(batch.images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        meter.count(seen=8)
        meter.update(loss=loss)
        after_batch(epoch, meter.step)
    return meter


def train(cfg, epochs=4, after_batch=lambda epoch, step: None, **values):
    """Train and save the next so many epochs, then stop; returns the epochs and the network."""
    trained = []
    with Run(cfg) as run:
        model, optimizer = network_and_optimizer()
        run.restore(model, optimizer, **values)
        for epoch in run.epochs():
            if len(trained) == epochs:
                break
            train_epoch(run, model, optimizer, epoch, after_batch)
            run.end_epoch(epoch, {}, **values)
            trained.append(epoch)
    return trained, model


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def images(count, value=0, targets=None):
    return ResidentDataset(torch.full((count, 3, 2, 2), value, dtype=torch.uint8), targets, [])
