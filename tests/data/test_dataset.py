"""Data sets in memory and in files: subsets, fingerprints, labels and duplicates."""

import hashlib

import numpy as np
import pytest
import torch

from data.dataset import ResidentDataset, StreamedDataset

IMAGES = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(-1, 3, 2, 2)
TARGETS = torch.arange(10) % 3
FILES = np.array([f"{number}.png".encode() for number in range(10)])
SIZES = np.arange(10)


def streamed(files=FILES, signatures=SIZES, **more):
    return StreamedDataset("here", files, signatures, TARGETS[: len(files)], ["a", "b", "c"], **more)


@pytest.mark.parametrize("number, chosen", [(1, [0]), (4, [0, 2, 5, 7]), (10, range(10)), (11, range(10))])
def test_a_subset_has_that_many_images_evenly_spaced_with_their_labels(number, chosen):
    dataset = ResidentDataset(IMAGES, TARGETS, ["a", "b", "c"]).subset(number)
    files = streamed().subset(number)
    assert dataset.images[:, 0, 0, 0].tolist() == files.signatures.tolist() == list(chosen)
    assert [files.name(row) for row in range(len(files))] == [f"{index}.png" for index in chosen]
    for one in (dataset, files):
        assert one.targets.tolist() == [index % 3 for index in chosen] and one.classes == ["a", "b", "c"]
    assert ResidentDataset(IMAGES, None, []).subset(number).targets is None


@pytest.mark.parametrize("targets, labelled", [(None, False), ([-1, -1], False), ([-1, 0], True)])
def test_a_data_set_is_labelled_if_any_label_is_known(targets, labelled):
    targets = None if targets is None else torch.tensor(targets)
    assert ResidentDataset(IMAGES[:2], targets, []).is_labelled is labelled


def test_the_fingerprint_in_memory_is_the_sha256_of_shape_and_pixels():
    content = str((10, 3, 2, 2)).encode() + bytes(number for number in range(10) for _ in range(12))
    assert ResidentDataset(IMAGES, TARGETS, []).fingerprint == hashlib.sha256(content).hexdigest()


def test_the_fingerprint_of_files_depends_on_names_signatures_order_and_sides_only():
    others = [streamed(FILES[::-1]), streamed(FILES[:9], SIZES[:9]), streamed(np.array([b"a", *FILES[1:]]))]
    others += [streamed(), streamed(signatures=SIZES + 1), streamed(side=8), streamed(short_side=320)]
    assert len({one.fingerprint for one in others}) == 7
    assert StreamedDataset("elsewhere", FILES, SIZES, None, []).fingerprint == streamed().fingerprint


def test_duplicates_are_files_of_one_digest_and_equal_sizes_alone_are_none():
    files = streamed(FILES[:3], np.array([b"x", b"y", b"x"]), side=2)
    assert files.duplicates() == ResidentDataset(IMAGES[:3], None, [], files).duplicates() == [[0, 2]]
    assert streamed(FILES[:2], np.array([7, 7])).duplicates() == []
    assert ResidentDataset(IMAGES, None, []).duplicates() == []
