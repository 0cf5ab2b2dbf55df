"""A folder of pictures becomes a data set: which files, in which order, held out how, labelled how, decoded once."""

import os
import time

import numpy as np
import pytest
import torch
from PIL import Image

import data.folder.decoded
from data import build_dataset
from data.augment import train_transform, val_transform
from data.dataset import ResidentDataset, StreamedDataset
from data.folder.labels import read_labels
from data.folder.pictures import images_in, list_pictures, new_pictures
from data.image_files import read_square
from data.loader import build_loader
from tests.image_trees import picture
from tests.own_pictures import add_oddities, write_digits
from utils.config import check_stage, load_config
from utils.console import say_once
from utils.errors import UserError


@pytest.fixture(autouse=True)
def said_anew():
    say_once.cache_clear()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "my pictures"


def config(folder, *overrides):
    own = [
        "train_db_name=folder",
        "val_db_name=folder",
        f"folder.path={folder}",
        f"root_dir={folder.parent / 'results'}",
    ]
    return load_config(None, "configs/pretext/simclr_digits.yml", [*own, "num_workers=2", *overrides])


def build(folder, split="train", *overrides):
    return build_dataset(config(folder, *overrides), split)


def write(folder, *names, size=(20, 20)):
    """Pictures that all differ, the first of number 0."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number, *size).save(folder / name)


def names_of(dataset):
    return [dataset.name(row) for row in range(len(dataset))]


# -- which files


def test_pictures_are_found_in_folders_within_folders_sorted_by_path_and_others_counted(folder):
    write(
        folder,
        "b.png",
        "a.JPG",
        "deep/er/c.webp",
        "deep/d.TIFF",
        "e.gif",
        "f.bmp",
        "B.jpeg",
        "é ü.png",
        ".hidden.png",
    )
    write(folder, ".thumbnails/g.png")
    (folder / "notes.txt").write_text("no picture")
    found, others = list_pictures(folder)
    assert found == ["B.jpeg", "a.JPG", "b.png", "deep/d.TIFF", "deep/er/c.webp", "e.gif", "f.bmp", "é ü.png"]
    assert others == 1


def test_a_link_that_leads_back_into_the_folder_is_followed_once(folder):
    write(folder, "a.png", "in/b.png")
    (folder / "in" / "again").symlink_to(folder, target_is_directory=True)
    assert list_pictures(folder)[0] == ["a.png", "in/b.png"]


def test_of_two_links_to_a_folder_the_first_by_name_is_followed_in_whatever_order_the_disk_lists_them(
    folder, tmp_path, monkeypatch
):
    write(tmp_path / "elsewhere", "a.png")
    folder.mkdir()
    for name in ("b", "a", "c"):
        (folder / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    walk = os.walk

    def backwards(*arguments, **options):
        for place, folders, files in walk(*arguments, **options):
            folders.sort(reverse=True)
            yield place, folders, files

    monkeypatch.setattr(os, "walk", backwards)
    assert list_pictures(folder)[0] == ["a/a.png"]


def test_a_folder_that_cannot_be_listed_is_refused_rather_than_left_out(folder, monkeypatch):
    write(folder, "a.png", "in/b.png")
    scandir = os.scandir

    def denied(place):
        if os.path.basename(place) == "in":
            raise PermissionError(13, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError) as error:
        list_pictures(folder)
    assert str(error.value).startswith(f"{folder / 'in'} cannot be listed (Permission denied)")


def test_the_memory_of_a_folder_with_a_long_name_has_a_short_one(tmp_path):
    write(tmp_path / ("é" * 120), "a.png")  # 240 bytes of the 255 that a name may have
    assert len(build(tmp_path / ("é" * 120), "train", "folder.val_share=0", "run_name=x")) == 1


def test_names_that_are_no_utf8_are_kept_byte_by_byte_in_lists_too(folder):
    write(folder, "a.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes())
    os.rename(folder / "a.png", os.fsencode(folder) + b"/\xff.png")
    dataset = build(folder, "train", "folder.val_share=0")
    assert [os.fsencode(name) for name in names_of(dataset)] == [b"b.png", b"\xff.png"]
    (report,) = (folder.parent / "results" / "scans").glob("*-duplicates.txt")
    assert report.read_bytes() == b"b.png\t\xff.png\n"


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.write_text(""), "is a file"),
        (
            lambda folder: folder.mkdir(),
            "holds no picture (.bmp, .gif, .jpeg, .jpg, .png, .tif, .tiff, .webp; 0 other",
        ),
    ],
    ids=["missing", "file", "empty"],
)
def test_a_folder_without_pictures_is_refused_by_its_whole_path(make, words, folder):
    make(folder)
    with pytest.raises(UserError) as error:
        build(folder)
    assert f"{folder} {words}" in str(error.value)


@pytest.mark.parametrize("place", ["", "in/results"])
def test_results_within_the_folder_are_refused_as_they_hold_pictures(place, folder):
    write(folder, "a.png")
    with pytest.raises(
        UserError, match=r"root_dir .* lies in .*/my pictures, .*: give a root_dir=\.\.\. outside"
    ):
        build(folder, "train", f"root_dir={folder / place}")
    assert [path.name for path in folder.iterdir()] == ["a.png"]


def test_without_a_folder_the_stages_ask_for_one(folder):
    cfg = load_config(None, "configs/pretext/simclr_folder.yml", [])
    with pytest.raises(UserError, match=r"folder\.path is missing"):
        check_stage(cfg, "simclr")
    check_stage(cfg, "eval")  # which takes other pictures, too
    with pytest.raises(UserError, match=r"folder\.path is missing"):
        build_dataset(cfg, "val")


# -- what an image is


def test_an_image_is_the_centre_square_resized_as_pillow_does(folder):
    write(folder, "wide.png", size=(61, 40))
    dataset = build(folder, "train", "folder.val_share=0", "folder.side=24")
    with Image.open(folder / "wide.png") as stored:
        square = stored.resize((24, 24), Image.Resampling.BILINEAR, box=(10.5, 0, 50.5, 40))
    assert np.array_equal(np.asarray(dataset.get_image(0)), np.asarray(square))


def test_pictures_of_the_very_size_are_taken_as_they_are(folder):
    labels = write_digits(folder, "val", every=60)
    dataset = build(folder, "train", "folder.val_share=0")
    assert names_of(dataset) == sorted(labels) and dataset.images.shape == (6, 3, 16, 16)
    for row, name in enumerate(names_of(dataset)):
        assert np.array_equal(dataset.images[row].permute(1, 2, 0), np.asarray(Image.open(folder / name)))


@pytest.mark.parametrize("size, side", [(16, 16), (96, 96), (224, 256), (225, 225)])
def test_without_a_side_images_are_as_large_as_the_plain_view_and_256_for_224(size, side, folder):
    write(folder, "a.png")
    assert (
        build(folder, "train", "folder.val_share=0", f"transformation_kwargs.crop_size={size}").images.shape[
            2
        ]
        == side
    )


def test_what_does_not_fit_into_memory_is_streamed_with_the_same_images_split_and_fingerprint(
    folder, monkeypatch
):
    write(folder, *(f"{number}.png" for number in range(12)), size=(50, 40))
    resident = {split: build(folder, split, "folder.side=20") for split in ("train", "val")}
    monkeypatch.setattr(data.folder.decoded, "free_memory", lambda: 2 * 12 * 3 * 20 * 20 - 1)
    streamed = {split: build(folder, split, "folder.side=20") for split in ("train", "val")}
    for split in ("train", "val"):
        held, read = resident[split], streamed[split]
        assert isinstance(held, ResidentDataset) and isinstance(read, StreamedDataset)
        assert names_of(held) == names_of(read) and held.fingerprint == read.fingerprint
        for row in range(len(held)):
            assert np.array_equal(np.asarray(held.get_image(row)), np.asarray(read.get_image(row)))


def test_a_streamed_folder_is_one_size_so_any_strategy_serves_and_plain_views_are_those_in_memory(
    folder, monkeypatch
):
    write(folder, *(f"{number}.png" for number in range(6)), size=(50, 40))
    cfg = config(folder, "folder.val_share=0", "num_workers=0")
    held = next(
        iter(build_loader(build_dataset(cfg, "train"), [val_transform(cfg.transformation_kwargs)], 6))
    ).views[0]
    monkeypatch.setattr(data.folder.decoded, "free_memory", lambda: 0)
    streamed = build_dataset(cfg, "train")
    assert torch.equal(
        next(iter(build_loader(streamed, [val_transform(cfg.transformation_kwargs)], 6))).views[0], held
    )
    assert (
        train_transform(cfg.augmentation_strategy, cfg.augmentation_kwargs)[0].__class__.__name__
        == "RandomAffine"
    )
    assert next(
        iter(
            build_loader(
                streamed, [train_transform(cfg.augmentation_strategy, cfg.augmentation_kwargs)], 6, train=True
            )
        )
    ).views[0].shape == (
        6,
        3,
        16,
        16,
    )


# -- decoded once


def test_files_are_decoded_again_only_when_one_of_them_changes(folder, monkeypatch):
    read = []
    monkeypatch.setattr(
        data.folder.decoded, "read_square", lambda file, side: read.append(side) or read_square(file, side)
    )
    write(folder, "a.png", "b.png", "c.png")

    def decoded_now(*overrides):
        read.clear()
        dataset = build(folder, "train", "folder.val_share=0", *overrides)
        return len(read), dataset

    assert decoded_now()[0] == 3
    assert decoded_now()[0] == 0
    count, smaller = decoded_now("folder.side=8")  # another side has a memory of its own
    assert count == 3 and decoded_now()[0] == 0
    before = decoded_now()[1].fingerprint
    assert smaller.fingerprint != before
    os.utime(folder / "b.png", ns=(0, 0))  # another time: read again, and found the same
    assert (decoded_now()[0], decoded_now()[1].fingerprint) == (3, before)
    picture(9, 20, 20).save(folder / "b.png")
    count, dataset = decoded_now()
    assert count == 3 and dataset.fingerprint != before
    write(folder, "d.png")
    assert decoded_now()[0] == 4


def test_what_a_killed_process_left_half_written_is_removed_after_a_day(folder):
    write(folder, "a.png", "b.png")
    build(folder, "train", "folder.val_share=0")
    (memory,) = (folder.parent / "results" / "scans").glob("*.npy")
    old, new = (memory.with_name(f"{memory.name}.{number}.part") for number in (1, 2))
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    build(folder, "train", "folder.val_share=0")
    assert new.exists() and not old.exists()


def test_files_that_change_names_are_read_again_though_sizes_and_times_stay(folder):
    write(folder, "a.bmp", "b.bmp")  # of one size
    for name in ("a.bmp", "b.bmp"):
        os.utime(folder / name, ns=(0, 0))
    before = build(folder, "train", "folder.val_share=0").images.clone()
    os.rename(folder / "a.bmp", folder / "c.bmp")
    assert torch.equal(build(folder, "train", "folder.val_share=0").images, before.flip(0))


def test_a_file_that_changes_its_size_is_read_again_though_its_time_stays(folder):
    write(folder, "a.png", "b.png")
    status = os.stat(folder / "a.png")
    before = build(folder, "train", "folder.val_share=0").images[0].clone()
    picture(7, 30, 30).save(folder / "a.png")
    os.utime(folder / "a.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not torch.equal(build(folder, "train", "folder.val_share=0").images[0], before)


def test_a_link_that_leads_nowhere_is_a_file_that_cannot_be_read(folder):
    write(folder, "a.bmp")
    (folder / "b.bmp").symlink_to(folder / "gone")
    with pytest.raises(UserError, match=r"1 image files cannot be read: .*b\.bmp \(No such file"):
        build(folder)


def test_what_fits_into_memory_again_is_held_there_again(folder, monkeypatch):
    write(folder, "a.png", "b.png")
    with monkeypatch.context() as little:
        little.setattr(data.folder.decoded, "free_memory", lambda: 0)
        assert isinstance(build(folder, "train", "folder.val_share=0"), StreamedDataset)
        little.setattr(data.folder.decoded, "read_square", None)  # it is remembered
        assert isinstance(build(folder, "train", "folder.val_share=0"), StreamedDataset)
    assert build(folder, "train", "folder.val_share=0").images.shape == (2, 3, 16, 16)


def test_a_start_with_less_memory_at_the_same_time_leaves_the_kept_images_alone(folder, monkeypatch):
    write(folder, "a.png", "b.png")
    load = np.load

    def load_after_the_other(path, **options):
        with monkeypatch.context() as other:
            other.setattr(data.folder.decoded, "free_memory", lambda: 0)
            other.setattr(
                data.folder.decoded, "fresh_manifest", lambda *_: None
            )  # it looked before anything was there
            assert len(build(folder, "train", "folder.val_share=0")) == 2
        return load(path, **options)

    monkeypatch.setattr(np, "load", load_after_the_other)
    assert build(folder, "train", "folder.val_share=0").images.shape == (2, 3, 16, 16)


def test_memory_that_runs_out_is_no_fault_of_a_file(folder, monkeypatch):
    def out_of_memory(*_):
        raise MemoryError

    monkeypatch.setattr(data.folder.decoded, "read_square", out_of_memory)
    write(folder, "a.png")
    with pytest.raises(MemoryError):
        build(folder, "train", "on_error=skip")


def test_a_damaged_memory_is_made_anew(folder):
    write(folder, "a.png", "b.png")
    images = build(folder, "train", "folder.val_share=0").images.clone()
    (memory,) = (folder.parent / "results" / "scans").glob("*.npy")
    memory.write_bytes(memory.read_bytes()[:-7])
    assert torch.equal(build(folder, "train", "folder.val_share=0").images, images)


# -- what cannot be read, and what is there twice


def test_files_that_cannot_be_read_are_refused_by_name_or_left_out_once_and_listed(folder, capsys):
    labels = write_digits(folder, "val", every=30)
    add_oddities(folder, folder / min(labels))
    with pytest.raises(UserError) as error:
        build(folder)
    assert "1 image files cannot be read" in str(error.value) and f"{folder / 'broken.png'} (" in str(
        error.value
    )
    assert "on_error=skip" in str(error.value)
    for split in ("train", "val"):
        build(folder, split, "on_error=skip")
    output = capsys.readouterr().out
    assert output.count("left out 1 image files") == 1
    (report,) = (folder.parent / "results" / "scans").glob("*-unreadable.txt")
    (line,) = report.read_text().splitlines()
    assert line.startswith(f"{folder / 'broken.png'}\t")
    everything = build(folder, "train", "on_error=skip", "folder.val_share=0")
    assert names_of(everything) == sorted([*labels, "16-bit.png", "copy.png", "grey.png", "rgba.png"])
    of = {name: everything.images[row] for row, name in enumerate(names_of(everything))}
    for name in ("16-bit.png", "copy.png", "grey.png", "rgba.png"):
        assert torch.equal(of[name], of[min(labels)]), name


def test_a_folder_of_which_nothing_can_be_read_is_refused(folder):
    folder.mkdir()
    (folder / "a.png").write_text("no picture")
    with pytest.raises(UserError, match="none of the 1 pictures"):
        build(folder, "train", "on_error=skip")


def test_a_device_or_pipe_is_left_out_unread(folder):
    write(folder, "a.png", "b.png")
    (folder / "device.png").symlink_to("/dev/null")
    with pytest.raises(UserError, match=r"1 image files cannot be read: .*/device\.png \(no regular file\)"):
        build(folder)


def test_floating_point_pixels_are_not_guessed_at(folder):
    write(folder, "a.png", "b.png")
    Image.fromarray(np.full((9, 9), 0.5, np.float32)).save(folder / "float.tif")
    with pytest.raises(
        UserError, match=r"float\.tif \(numbers with a fraction, .*: save it with 8 or 16 bits\)"
    ):
        build(folder)


def test_exact_duplicates_are_counted_listed_and_known_by_row(folder, capsys):
    write(folder, "a.png", "b.png", "c.png")
    for copy in ("d.png", "in/e.png"):
        (folder / copy).parent.mkdir(exist_ok=True)
        (folder / copy).write_bytes((folder / "b.png").read_bytes())
    (folder / "f.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "notes.txt").write_text("no picture")
    dataset = build(folder, "train", "folder.val_share=0")
    assert dataset.duplicates() == [[0, 4], [1, 3, 5]]
    output = capsys.readouterr().out
    assert "6 pictures, 1 files of other kinds passed over, 3 of them exact copies of others" in output
    (report,) = (folder.parent / "results" / "scans").glob("*-duplicates.txt")
    assert report.read_text() == "a.png\tf.png\nb.png\td.png\tin/e.png\n"


def test_files_known_by_their_size_alone_are_no_duplicates_nor_are_images_without_files(folder):
    sizes = np.array([7, 7])
    assert StreamedDataset(folder, np.array([b"a.JPEG", b"b.JPEG"]), sizes, None, []).duplicates() == []
    assert ResidentDataset(torch.zeros(2, 3, 1, 1, dtype=torch.uint8), None, []).duplicates() == []


# -- what is held out


def test_the_share_is_held_out_whatever_the_files_are_called_and_whatever_the_seed(folder, tmp_path):
    write(folder, *(f"{number:02d}.png" for number in range(20)))
    train, val = build(folder), build(folder, "val", "seed=5")
    assert len(val) == 4 and sorted(names_of(train) + names_of(val)) == list_pictures(folder)[0]
    held_out = {(folder / name).read_bytes() for name in names_of(val)}
    for number in range(20):
        (folder / f"{number:02d}.png").rename(folder / f"x{19 - number:02d}.png")
    assert {(folder / name).read_bytes() for name in names_of(build(folder, "val"))} == held_out
    assert names_of(train) == sorted(names_of(train))  # each split in the order of the folder


def test_another_share_holds_out_as_many_and_none_makes_both_splits_the_same(folder, capsys):
    write(folder, *(f"{number}.png" for number in range(10)))
    for share, number in ((0.5, 5), (0.27, 3), (0.06, 1), (0.94, 9)):
        assert len(build(folder, "val", f"folder.val_share={share}")) == number
    train, val = (build(folder, split, "folder.val_share=0") for split in ("train", "val"))
    assert names_of(train) == names_of(val) == list_pictures(folder)[0]
    assert "trained on are evaluated, too" in capsys.readouterr().out
    for share in (0.04, 0.96):
        with pytest.raises(UserError, match=f"val_share {share} of 10 images leaves a split empty"):
            build(folder, "val", f"folder.val_share={share}")


def test_a_val_folder_takes_the_place_of_the_share(folder):
    write(folder, "a.png", "b.png")
    write(folder.parent / "other", "c.png")
    whole = f"folder.val_path={folder.parent / 'other'}"
    assert names_of(build(folder, "train", whole)) == ["a.png", "b.png"]
    assert names_of(build(folder, "val", whole)) == ["c.png"]


def test_a_val_folder_in_the_folder_is_warned_of(folder, capsys):
    write(folder, "a.png", "val/b.png")
    write(folder.parent / "my pictures 2", "c.png")
    build(folder, "val", f"folder.val_path={folder.parent / 'my pictures 2'}")
    assert "lies in folder.path" not in capsys.readouterr().out
    (folder.parent / "link").symlink_to(folder, target_is_directory=True)
    for path, inside in (
        (folder, "my pictures/val"),
        (folder, "my pictures"),
        (folder.parent / "link", "my pictures/val"),
    ):
        say_once.cache_clear()
        build(path, "val", f"folder.val_path={folder.parent / inside}")
        assert (
            f"{folder.parent / inside} lies in folder.path: its pictures are trained on"
            in capsys.readouterr().out
        )


def test_max_images_thins_the_train_split_alone(folder):
    write(folder, *(f"{number}.png" for number in range(10)))
    assert len(build(folder, "train", "max_images=1")) == 1 and len(build(folder, "val", "max_images=1")) == 2


# -- labels


def targets_of(dataset):
    return {dataset.name(row): int(dataset.targets[row]) for row in range(len(dataset))}


def test_unless_asked_for_there_are_no_labels(folder):
    write(folder, "cat/a.png", "dog/b.png")
    dataset = build(folder, "train", "folder.val_share=0")
    assert dataset.targets is None and dataset.classes == []


def test_the_first_folder_on_the_way_is_the_label_and_pictures_outside_have_none(folder, capsys):
    write(folder, "cat/a.png", "cat/old/b.png", "dog/c.png", "loose.png")
    dataset = build(folder, "train", "folder.val_share=0", "folder.labels=subfolder")
    assert dataset.classes == ["cat", "dog"]
    assert targets_of(dataset) == {"cat/a.png": 0, "cat/old/b.png": 0, "dog/c.png": 1, "loose.png": -1}
    assert "3 of 4 pictures, 2 classes: cat (2), dog (1)" in capsys.readouterr().out


def test_both_splits_count_the_same_classes(folder):
    write(folder, "cat/a.png", "dog/b.png")
    write(folder.parent / "other", "ape/c.png", "dog/d.png")
    own = "folder.labels=subfolder", f"folder.val_path={folder.parent / 'other'}"
    train, val = build(folder, "train", *own), build(folder, "val", *own)
    assert train.classes == val.classes == ["ape", "cat", "dog"]
    assert targets_of(train) == {"cat/a.png": 1, "dog/b.png": 2} and targets_of(val) == {
        "ape/c.png": 0,
        "dog/d.png": 2,
    }


def test_of_many_classes_the_first_20_are_named(folder, capsys):
    write(folder, *(f"{number}/a.png" for number in range(22)))
    build(folder, "train", "folder.val_share=0", "folder.labels=subfolder")
    assert "22 classes: 0 (1), 1 (1), " in (output := capsys.readouterr().out)
    assert output.splitlines()[1].endswith(" 19 (1) and 2 more")


def test_labels_that_are_no_utf8_are_written_out_as_consoles_and_pictures_need(folder):
    write(folder, "cat/a.png", "dog/b.png")
    os.rename(folder / "dog", os.fsencode(folder) + b"/\xffdog")
    assert build(folder, "train", "folder.val_share=0", "folder.labels=subfolder").classes == [
        r"\xffdog",
        "cat",
    ]
    (folder / "labels.csv").write_bytes(b"path,label\ncat/a.png,\xfe\n\xffdog/b.png,\xfd\n")
    dataset = build(folder, "train", "folder.val_share=0", "folder.labels=labels.csv")
    assert dataset.classes == [r"\xfd", r"\xfe"] and dataset.targets.tolist() == [1, 0]


def test_a_table_for_the_train_split_alone_serves_it(folder):
    write(folder, "a.png", "b.png")
    write(folder.parent / "other", "c.png")
    (folder / "labels.csv").write_text("path,label\na.png,x\nb.png,y\n")
    own = "folder.labels=labels.csv", f"folder.val_path={folder.parent / 'other'}"
    assert build(folder, "train", *own).classes == ["x", "y"]


def test_a_single_class_is_no_label_which_a_folder_too_many_gives(folder, capsys):
    write(folder, "all/cat/a.png", "all/dog/b.png")
    assert build(folder, "train", "folder.val_share=0", "folder.labels=subfolder").targets is None
    assert "1 class found, all" in capsys.readouterr().out
    write(folder.parent / "flat", "a.png")
    build(folder.parent / "flat", "train", "folder.val_share=0", "folder.labels=subfolder")
    assert "no picture has a label" in capsys.readouterr().out


def test_a_table_labels_what_it_names_numbers_in_their_order(folder, capsys):
    write(folder, "a.png", "b.png", "c.png", "in/d.png", "e.png")
    table = 'label,path,remark\n10,a.png,x\n9,"b.png",\n-1,c.png,\n 9 ,./in/d.png,\n9,gone.png,\n,e.png,\n'
    (folder / "labels.csv").write_text(table, encoding="utf-8-sig")
    dataset = build(folder, "train", "folder.val_share=0", "folder.labels=labels.csv")
    assert dataset.classes == ["9", "10"]
    assert targets_of(dataset) == {"a.png": 1, "b.png": 0, "c.png": -1, "e.png": -1, "in/d.png": 0}
    output = capsys.readouterr().out
    assert "3 of 5 pictures, 2 classes: 9 (2), 10 (1)" in output
    assert "1 of 6 rows name no picture, such as gone.png" in output


def test_a_table_is_looked_for_as_it_is_named_and_then_in_the_folder(folder, tmp_path, monkeypatch):
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    for place, label in ((folder, "inside"), (tmp_path, "as named")):
        (place / "Labels.CSV").write_text(f"path,label\na.png,{label}\n")
        assert read_labels(folder, ["a.png"], "Labels.CSV") == {"a.png": label}


def test_a_table_may_lie_anywhere(folder, tmp_path):
    write(folder, "a.png", "b.png")
    (tmp_path / "elsewhere.csv").write_text("path,label\na.png,x\nb.png,y\n")
    rule = f"folder.labels={tmp_path / 'elsewhere.csv'}"
    assert build(folder, "train", "folder.val_share=0", rule).targets.tolist() == [0, 1]


@pytest.mark.parametrize(
    "table, words",
    [
        (None, "cannot read the labels in"),
        ("", "needs the columns path and label and a row for each picture, but has nothing"),
        ("file,class\na.png,1\n", "but has file, class"),
        ("path,label\na.png,1\na.png,2\n", "a.png has two labels, 1 and 2"),
        ("path,label\nz.png,1\n", "names none of the pictures in"),
        ('path,label\n"a.png,1\n', "cannot be read as CSV"),
    ],
)
def test_a_table_that_does_not_serve_is_refused(table, words, folder):
    write(folder, "a.png", "b.png")
    if table is not None:
        (folder / "labels.csv").write_text(table)
    with pytest.raises(UserError) as error:
        build(folder, "train", "folder.labels=labels.csv")
    assert words in str(error.value)


def test_another_word_for_labels_is_refused(folder):
    write(folder, "a.png")
    with pytest.raises(
        UserError, match=r"folder\.labels is subfolders: should be none, subfolder or a table"
    ):
        build(folder, "train", "folder.labels=subfolders")


# -- other pictures, to be predicted


def test_new_pictures_are_all_of_a_folder_labelled_by_the_same_rule_where_it_finds_labels(folder):
    write(folder, "cat/a.png", "dog/b.png")
    write(folder.parent / "new", "dog/c.png", "emu/d.png")
    new = new_pictures(config(folder, "folder.labels=subfolder"), folder.parent / "new")
    assert new.classes == ["cat", "dog", "emu"] and new.targets.tolist() == [1, 2]
    assert new_pictures(config(folder, "folder.labels=labels.csv"), folder.parent / "new").targets is None
    cfg = load_config(
        None, "configs/scan/scan_cifar10.yml", [f"root_dir={folder.parent}"]
    )  # any model's config
    assert new_pictures(cfg, folder.parent / "new").images.shape == (2, 3, 32, 32)


def test_a_table_of_the_data_set_alone_does_not_keep_new_pictures_out_nor_one_of_theirs_alone_theirs(
    folder, capsys
):
    write(folder, "a.png", "b.png")
    write(folder.parent / "new", "c.png", "d.png")
    table = folder.parent / "labels.csv"
    cfg = config(folder, f"folder.labels={table}", "folder.val_share=0")
    table.write_text("path,label\na.png,1\nb.png,2\n")
    assert (
        build_dataset(cfg, "train").targets is not None
        and new_pictures(cfg, folder.parent / "new").targets is None
    )
    assert (
        f"no labels: {table} names none of the pictures in {folder.parent / 'new'}" in capsys.readouterr().out
    )
    table.write_text("path,label\nc.png,1\nd.png,2\n")
    assert new_pictures(cfg, folder.parent / "new").targets.tolist() == [0, 1]


def test_all_of_the_folder_of_a_data_set_is_its_two_splits(folder):
    write(folder, *(f"{number}.png" for number in range(10)))
    cfg = config(folder)
    splits = names_of(build_dataset(cfg, "train")) + names_of(build_dataset(cfg, "val"))
    assert names_of(images_in(cfg, folder)) == sorted(splits)
