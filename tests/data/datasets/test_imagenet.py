"""ImageNet and its subsets, from small trees of real JPEG files."""

import hashlib
import struct

import numpy as np
import pytest
import torch

from data import build_dataset, open_splits
from data.datasets.imagenet import class_ids, class_names, read_imagenet
from tests.image_trees import write_imagenet
from utils.config import load_config
from utils.errors import UserError

TRAIN, VAL = "ILSVRC2012_img_train", "ILSVRC2012_img_val"


def read(name, split, folder):
    return read_imagenet(name, split, folder, folder / "scans")


def test_imagenet_has_a_thousand_classes_in_the_order_of_their_ids():
    ids = class_ids("imagenet")
    assert len(set(ids)) == 1000 and ids == sorted(ids)
    assert (ids[0], ids[207], ids[999]) == ("n01440764", "n02099601", "n15075141")
    assert class_names([ids[0], ids[207], ids[999]]) == ["tench", "golden retriever", "toilet tissue"]
    assert class_names(["n00000001"]) == ["n00000001"]  # an unknown id


def test_the_subsets_are_lists_of_imagenets_classes():
    for size in (50, 100, 200):
        ids = class_ids(f"imagenet_{size}")
        assert len(set(ids)) == size and set(ids) <= set(class_ids("imagenet"))
    assert set(class_ids("imagenet_50")) < set(class_ids("imagenet_100"))
    assert class_names(class_ids("imagenet_50")[:2]) == ["water ouzel", "box turtle"]  # as published


def test_files_come_class_by_class_and_the_fingerprint_is_of_names_and_64_bit_sizes(tmp_path):
    ids = write_imagenet(tmp_path, "imagenet_50", train=2, val=1)
    train, val = (read("imagenet_50", split, tmp_path) for split in ("train", "val"))
    names = [f"{id}/{id}_{number}.JPEG" for id in ids for number in range(2)]
    assert [train.name(row) for row in range(100)] == names and train.path(9) == tmp_path / TRAIN / names[9]
    assert train.targets.dtype == torch.int64 and val.targets.tolist() == list(range(50))
    assert train.targets.tolist() == [number for number in range(50) for _ in range(2)]
    assert val.classes == train.classes == class_names(ids)
    assert min(train.get_image(99).size) == 256
    sizes = b"".join(struct.pack("<q", (tmp_path / TRAIN / name).stat().st_size) for name in names)
    assert train.fingerprint == hashlib.sha256("\0".join(names).encode() + sizes).hexdigest()


def test_all_of_imagenet_is_the_sorted_folders_of_both_splits(tmp_path):
    write_imagenet(tmp_path, "imagenet_100", train=2, val=1, num_classes=4)
    (tmp_path / TRAIN / "notes").mkdir()
    train = read("imagenet", "train", tmp_path)
    assert train.classes == class_names(sorted(class_ids("imagenet_100")[:4]))
    assert train.targets.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    only_val = tmp_path / "val only"
    only_val.mkdir()
    (tmp_path / VAL).rename(only_val / VAL)  # what eval.py needs
    assert read("imagenet", "val", only_val).classes == train.classes


def test_a_subset_takes_its_classes_of_a_larger_tree(tmp_path):
    write_imagenet(tmp_path, "imagenet_100", train=1, val=1)
    fifty = read("imagenet_50", "train", tmp_path)
    assert [fifty.path(row).parent.name for row in range(50)] == class_ids("imagenet_50")


@pytest.mark.parametrize("name, number", [("imagenet_50", 50), ("imagenet", 1000)])
@pytest.mark.parametrize("there", ["", f"{TRAIN}/train"], ids=["nothing", "one level too deep"])
def test_a_missing_split_names_what_should_be_there_and_the_key_of_its_folder(there, name, number, tmp_path):
    (tmp_path / there).mkdir(parents=True, exist_ok=True)
    with pytest.raises(UserError, match=rf"{TRAIN} .*{number} of {number} .*n01.*db_root_dir\.imagenet="):
        read(name, "train", tmp_path)


def test_build_dataset_reads_it_by_the_config(tmp_path):
    ids = write_imagenet(tmp_path / "data", "imagenet_50", train=2, val=1)
    damaged = tmp_path / "data" / TRAIN / ids[3] / f"{ids[3]}_1.JPEG"
    damaged.write_bytes(b"")
    overrides = [f"db_root_dir.imagenet={tmp_path / 'data'}", f"root_dir={tmp_path}", "num_workers=3"]
    cfg = load_config(None, "configs/pretext/moco_imagenet50.yml", [*overrides, "on_error=skip"])
    train, val = open_splits(cfg)
    assert (len(train), len(val), train.num_workers) == (99, 50, 3)
    assert train.targets.bincount().tolist() == [2, 2, 2, 1, *[2] * 46]
    cfg.max_images = 11
    train_subset, val = open_splits(cfg)
    assert np.array_equal(train_subset.files, train.files[::9]) and len(val) == 50
    for resize, short_side in ((200, 256), (320, 320)):
        cfg.transformation_kwargs.resize = resize
        assert min(build_dataset(cfg, "train").get_image(0).size) == short_side
    cfg.on_error = "stop"
    with pytest.raises(UserError, match=f"{damaged}.*on_error=skip"):
        build_dataset(cfg, "train")
