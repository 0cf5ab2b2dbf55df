import numpy as np
import torch
from easydict import EasyDict
from PIL import Image
from sklearn.datasets import load_digits

from data import open_splits


def enlarged(pixels):
    """Pillow's bilinear enlargement of an 8 x 8 digit of values 0 to 16, rounded in the last step only."""
    image = Image.fromarray((pixels * 255 / 16).astype(np.float32)).resize((16, 16), Image.BILINEAR)
    return np.rint(np.asarray(image)).astype(np.uint8)


def test_every_fifth_of_the_1797_images_is_held_out_and_all_are_enlarged_as_by_pillow():
    bunch, cfg = load_digits(), EasyDict(train_db_name="digits", val_db_name="digits")
    held_out = list(range(4, 1797, 5))
    others = sorted(set(range(1797)) - set(held_out))
    assert (len(others), len(held_out)) == (1438, 359)
    for split, numbers in zip(open_splits(cfg), (others, held_out), strict=True):
        right = np.stack([enlarged(bunch.images[number]) for number in numbers])
        assert split.images.dtype == torch.uint8 and split.images.shape == (len(numbers), 3, 16, 16)
        assert all(np.array_equal(channel.numpy(), right) for channel in split.images.unbind(1))
        assert split.targets.dtype == torch.int64 and split.classes == list("0123456789")
        assert np.array_equal(split.targets.numpy(), bunch.target[numbers])
