import hashlib

import pytest
import torch

from data.dataset import ResidentDataset

IMAGES = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(-1, 3, 2, 2)
TARGETS = torch.arange(10) % 3


@pytest.mark.parametrize(
    "number, chosen",
    [
        (1, [0]),
        (3, [0, 3, 6]),
        (4, [0, 2, 5, 7]),
        (9, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (10, range(10)),
        (11, range(10)),
    ],
)
def test_thinned_takes_that_many_images_evenly_spaced_with_their_labels(number, chosen):
    dataset = ResidentDataset(IMAGES, TARGETS, ["a", "b", "c"]).subset(number)
    assert dataset.images[:, 0, 0, 0].tolist() == dataset.images[:, 2, 1, 1].tolist() == list(chosen)
    assert dataset.targets.tolist() == [index % 3 for index in chosen]
    assert dataset.classes == ["a", "b", "c"]


def test_thinned_needs_no_labels():
    dataset = ResidentDataset(IMAGES, None, []).subset(5)
    assert len(dataset) == 5 and dataset.targets is None


@pytest.mark.parametrize(
    "targets, labelled", [(None, False), (torch.tensor([-1, -1]), False), (torch.tensor([-1, 0]), True)]
)
def test_a_data_set_is_labelled_when_any_label_is_known(targets, labelled):
    assert ResidentDataset(IMAGES[:2], targets, []).is_labelled is labelled


def test_the_fingerprint_is_the_one_that_kept_records_have_of_shape_and_pixels():
    content = str((10, 3, 2, 2)).encode() + bytes(number for number in range(10) for _ in range(12))
    assert (
        ResidentDataset(IMAGES, TARGETS, ["a", "b", "c"]).fingerprint == hashlib.sha256(content).hexdigest()
    )
