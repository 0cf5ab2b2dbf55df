"""What the tests of loaders share."""

import torch

from data.augment.steps import Normalize

AS_IT_IS = Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def epoch_of(loader, epoch=0, first_step=0):
    loader.set_epoch(epoch, first_step)
    return list(loader)


def indices(batches):
    return torch.cat([batch.index for batch in batches])


def same(batches, others):
    """Equal to the bit, in order and in every view."""
    return all(
        torch.equal(batch.index, other.index) and all(map(torch.equal, batch.views, other.views))
        for batch, other in zip(batches, others, strict=True)
    )


def who(view):
    """int64 (B,): the red value of each view's centre, which is the number of its image."""
    return (view[:, 0, view.shape[2] // 2, view.shape[3] // 2] * 255).round().long()
