import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from easydict import EasyDict
from PIL import Image
from sklearn.datasets import load_digits

from data import build_dataset
from utils.errors import UserError

DIGITS = EasyDict(train_db_name="digits", val_db_name="digits")


@pytest.fixture(scope="module")
def bunch():
    return load_digits()


@pytest.fixture
def splits(bunch, monkeypatch):
    monkeypatch.setattr(sys.modules["data.datasets.digits"], "load_digits", lambda: bunch)  # reads its file once for all tests
    return build_dataset(DIGITS, "train"), build_dataset(DIGITS, "val")


def enlarged(pixels):
    """Pillow's bilinear enlargement of an 8 x 8 digit of values 0 to 16, in floating point up to the last step."""
    picture = Image.fromarray((pixels * 255 / 16).astype(np.float32)).resize((16, 16), Image.BILINEAR)
    return np.rint(np.asarray(picture)).astype(np.uint8)


def test_every_fifth_image_is_held_out_and_all_1797_are_in_one_split_enlarged_by_pillow(splits, bunch):
    train, val = splits
    assert (len(train), len(val)) == (1438, 359)
    held_out = list(range(4, 1797, 5))
    others = sorted(set(range(1797)) - set(held_out))
    for split, numbers in ((train, others), (val, held_out)):
        right = np.stack([enlarged(bunch.images[number]) for number in numbers])
        assert np.array_equal(split.images[:, 0].numpy(), right)
        assert np.array_equal(split.targets.numpy(), bunch.target[numbers])


def test_the_splits_and_their_images_do_not_depend_on_the_labels(splits, bunch, monkeypatch):
    shuffled = SimpleNamespace(images=bunch.images, target=bunch.target[::-1].copy())
    monkeypatch.setattr(sys.modules["data.datasets.digits"], "load_digits", lambda: shuffled)
    for name, split in zip(("train", "val"), splits, strict=True):
        assert torch.equal(build_dataset(DIGITS, name).images, split.images)


def test_images_are_uint8_16_x_16_with_three_equal_channels_from_black_to_white(splits):
    for split in splits:
        assert split.images.dtype == torch.uint8
        assert split.images.shape == (len(split), 3, 16, 16)
        assert torch.equal(split.images, split.images[:, :1].expand(-1, 3, -1, -1))
        assert (split.images.min(), split.images.max()) == (0, 255)


def test_all_ten_classes_are_in_both_splits(splits):
    for split in splits:
        assert split.classes == list("0123456789")
        assert split.targets.dtype == torch.int64
        assert split.targets.unique().tolist() == list(range(10))


def test_get_image_gives_the_picture_of_an_index(splits):
    for split in splits:
        picture = split.get_image(5)
        assert (picture.mode, picture.size) == ("RGB", (16, 16))
        assert np.array_equal(np.asarray(picture), split.images[5].permute(1, 2, 0).numpy())


def test_each_split_is_of_the_data_set_that_the_config_names_for_it(splits):
    cfg = EasyDict(train_db_name="digits", val_db_name="pebbles")
    assert len(build_dataset(cfg, "train")) == 1438
    with pytest.raises(UserError, match=r"'pebbles' .*digits"):
        build_dataset(cfg, "val")
