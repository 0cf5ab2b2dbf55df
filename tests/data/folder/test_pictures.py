"""A folder of images becomes a data set: which files, in which order, held out and labelled how."""

import os
import shutil
import struct
import zlib
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from data import build_dataset, open_splits
from data.dataset import ResidentDataset, StreamedDataset
from data.folder import scan
from data.folder.pictures import images_in, list_pictures
from data.image_files import read_square
from tests.image_trees import picture
from tests.own_pictures import NAMES, WHOLE, add_oddities, build, config, names_of, write, write_digits
from utils.config import check_stage, load_config
from utils.console import say_once
from utils.errors import UserError


def scans(folder, pattern):
    """The one file of a pattern among what was found out about folders."""
    (path,) = (folder.parent / "results" / "scans").glob(pattern)
    return path


# -- which files


def test_images_are_found_in_folders_within_folders_sorted_by_path_and_others_are_counted(folder):
    names = ["B.jpeg", "a.JPG", "b.png", "deep/d.TIFF", "deep/er/c.webp", "e.gif", "f.bmp", "é ü.png"]
    write(folder, *reversed(names), ".hidden.png", ".thumbnails/g.png")
    (folder / "notes.txt").write_text("no image")
    assert list_pictures(folder) == (names, {".txt": 1}, {})


def test_whatever_pillow_reads_is_an_image_and_other_kinds_are_told(folder, capsys):
    for number, (ending, kind) in enumerate(
        {"jfif": "JPEG", "PPM": "PPM", "pgm": "PPM", "jp2": "JPEG2000"}.items()
    ):
        write(folder, "a.png")
        picture(number, 20, 20).save(folder / f"{number}.{ending}", kind)
    for name in ("b.heic", "c.HEIC", "clip.mov", "table.h5", "README"):
        (folder / name).write_bytes(b"something else")
    dataset = build(folder, "train", WHOLE)
    assert names_of(dataset) == ["0.jfif", "1.PPM", "2.pgm", "3.jp2", "a.png"]
    printed = capsys.readouterr().out
    assert "5 pictures" in printed and all(kind in printed for kind in ("2 .heic", "1 .mov", "1 .h5"))


def test_links_to_folders_are_not_followed_but_told_and_links_to_files_are(folder, tmp_path):
    write(tmp_path / "elsewhere", "a.png")
    write(folder, "b.png")
    (folder / "out").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "back").symlink_to(folder, target_is_directory=True)
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "c.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    assert list_pictures(folder) == (["b.png", "c.png"], {"links to folders": 2, "of other kinds": 1}, {})
    assert list_pictures(folder / "back")[0] == ["b.png", "c.png"]  # the folder itself may be a link


def test_thumbnails_and_deleted_files_of_systems_are_no_pictures_of_the_user(folder):
    write(folder, "a.png", "album/b.png", "$5 notes/c.png", "#fun/d.png")
    own = sorted(["a.png", "album/b.png", "$5 notes/c.png", "#fun/d.png"])
    places = ["@eaDir/a.png", "album/@eaDir/b.png", "#recycle", "$RECYCLE.BIN/S-1-5", "$Recycle.Bin"]
    places += ["System Volume Information", "lost+found", "__MACOSX/album", "#snapshot/daily", "@Recycle"]
    write(folder, *(f"{place}/thumbnail.png" for place in places))
    assert list_pictures(folder) == (own, {"folders of the system": len(places)}, {})


@pytest.fixture
def closed(folder, monkeypatch):
    """Folders that cannot be listed, by name; for root this cannot be had by permissions."""
    names, scandir = set(), os.scandir

    def scan_open_ones(place):
        if os.path.basename(place) in names:
            raise PermissionError(13, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", scan_open_ones)
    return names


def test_a_folder_that_cannot_be_listed_is_refused_or_left_out_and_listed(folder, closed):
    write(folder, "a.png", "b.png", "in/closed/c.png", "in/d.png")
    closed |= {"closed", "lost+found"}
    (folder / "lost+found").mkdir()
    with pytest.raises(UserError, match=f"{folder}/in/closed.*Permission denied.*on_error=skip"):
        build(folder, "train", WHOLE)
    (folder / "broken.png").write_bytes(b"")
    assert names_of(build(folder, "train", WHOLE, "on_error=skip")) == ["a.png", "b.png", "in/d.png"]
    lines = scans(folder, "*-unreadable.txt").read_text().splitlines()
    assert [line.partition(" (")[0] for line in lines] == [f"{folder}/in/closed", f"{folder}/broken.png"]
    closed |= {folder.name}
    with pytest.raises(UserError, match=f"{folder} .*Permission denied"):
        list_pictures(folder, "skip")


def test_folders_with_long_names_and_files_whose_names_are_not_utf8_are_read(tmp_path):
    folder = tmp_path / ("é" * 120)  # 240 bytes of the 255 that a name may have
    write(folder, "a.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes())
    os.rename(folder / "a.png", os.fsencode(folder) + b"/\xff.png")
    dataset = build(folder, "train", WHOLE, "run_name=x")
    assert [os.fsencode(name) for name in names_of(dataset)] == [b"b.png", b"\xff.png"]
    assert scans(folder, "*-duplicates.txt").read_bytes() == b"b.png\t\xff.png\n"


def test_a_folder_that_is_missing_a_file_or_empty_is_refused_by_its_whole_path(tmp_path):
    (tmp_path / "a file").write_text("")
    (tmp_path / "empty").mkdir()
    for name in ("missing", "a file", "empty"):
        with pytest.raises(UserError, match=str(tmp_path / name)):
            list_pictures(tmp_path / name)


@pytest.mark.parametrize("place", ["", "in/results"])
def test_a_root_dir_within_the_folder_is_refused(place, folder):
    write(folder, "a.png")
    with pytest.raises(UserError, match="root_dir"):
        build(folder, "train", f"root_dir={folder / place}")


def test_without_a_folder_the_stages_ask_for_one(folder):
    cfg = load_config(None, "configs/pretext/simclr_folder.yml", [])
    for ask in (lambda: check_stage(cfg, "simclr"), lambda: build_dataset(cfg, "val")):
        with pytest.raises(UserError, match=r"folder\.path"):
            ask()
    check_stage(cfg, "eval")  # which can take other images


# -- what an image is


def test_an_image_is_the_centre_square_resized_as_pillow_does(folder):
    write(folder, "wide.png", size=(61, 40))
    dataset = build(folder, "train", WHOLE, "folder.side=24")
    square = picture(0, 61, 40).resize((24, 24), Image.Resampling.BILINEAR, box=(10.5, 0, 50.5, 40))
    assert np.array_equal(np.asarray(dataset.get_image(0)), np.asarray(square))


@pytest.mark.parametrize(
    "size, resize, side",
    [(16, None, 16), (224, None, 256), (225, None, 225), (16, 20, 20), (24, 20, 24), (224, 224, 224)],
)
def test_by_default_images_are_as_large_as_the_plain_view_but_256_for_224_alone(size, resize, side, folder):
    write(folder, "a.png")
    resized = [f"transformation_kwargs.resize={resize}"] if resize else []
    dataset = build(folder, "train", WHOLE, f"transformation_kwargs.crop_size={size}", *resized)
    assert dataset.images.shape == (1, 3, side, side)


def test_without_memory_the_same_images_splits_and_fingerprints_are_streamed(folder, monkeypatch):
    write(folder, *NAMES[:12], size=(50, 40))
    resident = {split: build(folder, split, "folder.side=20") for split in ("train", "val")}
    monkeypatch.setattr(scan, "free_memory", lambda: 2 * 12 * 3 * 20 * 20 - 1)
    for split, held in resident.items():
        read = build(folder, split, "folder.side=20")
        assert isinstance(held, ResidentDataset) and isinstance(read, StreamedDataset)
        assert names_of(held) == names_of(read) and held.fingerprint == read.fingerprint
        for row in range(len(held)):
            assert np.array_equal(np.asarray(held.get_image(row)), np.asarray(read.get_image(row)))


# -- read once


def test_files_are_decoded_again_only_when_one_of_them_changes(folder, monkeypatch):
    write(folder, "a.png", "b.png", "c.png")
    read = []
    monkeypatch.setattr(scan, "read_square", lambda *how: read.append(1) or read_square(*how))

    def decoded(*overrides):
        read.clear()
        dataset = build(folder, "train", WHOLE, *overrides)
        return len(read), dataset.fingerprint

    count, before = decoded()
    assert count == 3 and decoded() == (0, before)
    count, smaller = decoded("folder.side=8")  # has a cache of its own
    assert count == 3 and smaller != before and decoded() == (0, before)
    os.utime(folder / "b.png", ns=(0, 0))
    assert decoded() == (3, before)
    picture(9, 20, 20).save(folder / "d.png")
    count, changed = decoded()
    assert count == 4 and changed != before
    with monkeypatch.context() as little:  # memory, in which only digests are cached
        little.setattr(scan, "free_memory", lambda: 0)
        assert [decoded()[0], decoded()[0]] == [4, 0]
    assert decoded()[0] == 0


# -- what cannot be read, and what is there twice


def test_unreadable_files_are_refused_by_name_or_left_out_and_listed(folder, capsys):
    labels = write_digits(folder, "val", every=30)
    add_oddities(folder, folder / min(labels))
    with pytest.raises(UserError, match=r"broken\.png \(.*on_error=skip"):
        build(folder)
    for split in ("train", "val"):
        build(folder, split, "on_error=skip")
    listed = scans(folder, "*-unreadable.txt")
    assert listed.read_text().startswith(f"{folder / 'broken.png'} (") and listed.read_text().count("\n") == 1
    assert capsys.readouterr().out.count(str(listed)) == 1
    everything = build(folder, "train", "on_error=skip", WHOLE)
    odd = ["16-bit.png", "copy.png", "grey.png", "rgba.png"]
    assert names_of(everything) == sorted([*labels, *odd])
    of = {name: everything.images[row] for row, name in enumerate(names_of(everything))}
    for name in odd:
        assert torch.equal(of[name], of[min(labels)]), name


UNREADABLE = {
    "gone.bmp": lambda path: path.symlink_to(path.parent / "nowhere"),
    "device.png": lambda path: path.symlink_to("/dev/null"),  # or a pipe, which would never end
    "float.tif": lambda path: Image.fromarray(np.full((9, 9), 0.5, np.float32)).save(
        path
    ),  # of unknown range
    "text.png": lambda path: path.write_text("no image"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_files_that_are_no_images_or_lead_nowhere_or_never_end_are_unreadable(name, folder):
    folder.mkdir()
    UNREADABLE[name](folder / name)
    with pytest.raises(UserError, match=f"{name} \\("):
        build(folder)
    with pytest.raises(UserError, match=str(folder)):  # as nothing is left
        build(folder, "train", "on_error=skip")
    write(folder, "a.png")
    assert names_of(build(folder, "train", "on_error=skip", WHOLE)) == ["a.png"]


def test_running_out_of_memory_is_no_fault_of_a_file(folder, monkeypatch):
    monkeypatch.setattr(scan, "read_square", Mock(side_effect=MemoryError))
    write(folder, "a.png")
    with pytest.raises(MemoryError):
        build(folder, "train", "on_error=skip")


def test_exact_duplicates_are_counted_listed_and_known_by_row(folder, capsys):
    write(folder, "a.png", "b.png", "c.png", "in/x.png")
    for copy, name in (("d.png", "b.png"), ("in/x.png", "b.png"), ("f.png", "a.png")):
        shutil.copy(folder / name, folder / copy)
    dataset = build(folder, "train", WHOLE)
    assert dataset.duplicates() == [[0, 4], [1, 3, 5]]
    listed = scans(folder, "*-duplicates.txt")
    assert listed.read_text() == "a.png\tf.png\nb.png\td.png\tin/x.png\n"
    assert str(listed) in capsys.readouterr().out


# -- what is held out


def test_the_share_is_held_out_by_content_whatever_the_names_and_the_seed(folder):
    write(folder, *NAMES)
    train, val = build(folder), build(folder, "val", "seed=5")
    everything = images_in(config(folder), folder)
    assert len(val) == 4 and sorted(names_of(train) + names_of(val)) == names_of(everything)
    held_out = {(folder / name).read_bytes() for name in names_of(val)}
    for old, new in zip(NAMES, reversed(NAMES), strict=True):
        (folder / old).rename(folder / f"x{new}")
    assert {(folder / name).read_bytes() for name in names_of(build(folder, "val"))} == held_out
    for split in (train, val):  # each in the order of the folder
        assert names_of(split) == sorted(names_of(split))


def test_copies_stay_together_and_the_share_is_of_distinct_images(folder, capsys):
    write(folder, *NAMES)
    before = {split: {*names_of(build(folder, split))} for split in ("train", "val")}
    for number in range(30):
        shutil.copy(folder / NAMES[number % 3], folder / f"copy {number}.png")
    train, val = build(folder), build(folder, "val")
    contents = [{(folder / name).read_bytes() for name in names_of(split)} for split in (train, val)]
    assert not contents[0] & contents[1] and len(contents[1]) == 4 and len(train) + len(val) == 50
    assert {*names_of(val)} & {*NAMES} == before["val"] and {*names_of(train)} & {*NAMES} == before["train"]
    for path in folder.iterdir():
        path.write_bytes((folder / NAMES[0]).read_bytes())
    with pytest.raises(UserError, match=r"val_share 0\.2 of 1 "):
        build(folder)


def test_splits_of_few_distinct_images_are_told(folder, capsys):
    write(folder, *(f"{number}.png" for number in range(50)))
    build(folder)
    assert "warning" not in capsys.readouterr().out
    for number in range(1, 20):
        shutil.copy(folder / "0.png", folder / f"{number}.png")
    build(folder)  # 31 distinct images, 6 of them held out
    assert "warning" in (printed := capsys.readouterr().out) and "6 distinct images" in printed


def test_val_images_that_are_copies_of_training_images_are_told(folder, capsys):
    other = folder.parent / "val"
    write(folder, "a.png", "b.png", "c.png")
    write(other, "x.png", "y.png", size=(30, 30))
    shutil.copy(folder / "b.png", other / "z.png")
    open_splits(config(folder, f"folder.val_path={other}"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert "1 of 3" in line


# -- files of more than 8 bits


def write_deep(folder, highest, colour=False):
    """Files of 16 bits with values up to `highest`; returns the values. Colours need a writer of our own."""
    folder.mkdir(parents=True, exist_ok=True)
    values = np.linspace(0, highest, 256).astype(np.uint16).reshape(16, 16)
    values = np.stack([values, np.roll(values, 3), np.roll(values, 50)], axis=2)
    for number in range(3):
        values = np.roll(values, 5, axis=0)
        path = folder / f"{number}.png"
        path.write_bytes(png_of_16_bits(values)) if colour else Image.fromarray(values[..., 0]).save(path)
    return values


def png_of_16_bits(values):
    """An RGB PNG of 16 bits, which Pillow cannot write."""
    height, width, _ = values.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content


@pytest.mark.parametrize("fits", [True, False], ids=["resident", "streamed"])
@pytest.mark.parametrize("highest, bits", [(200, 8), (4000, 12), (4096, 14), (16384, 16), (65535, 16)])
def test_the_highest_value_of_a_folder_says_how_many_bits_its_files_use(
    highest, bits, fits, folder, monkeypatch, capsys
):
    values = write_deep(folder, highest)
    write(folder, "colour.png", size=(16, 16))  # 8 bits
    if not fits:
        monkeypatch.setattr(scan, "free_memory", lambda: 0)
    dataset = build(folder, "train", WHOLE)
    assert np.array_equal(np.asarray(dataset.get_image(2))[..., 1], values[..., 0] >> (bits - 8))
    assert np.array_equal(np.asarray(dataset.get_image(3)), np.asarray(picture(0, 16, 16)))
    assert (f"{bits} bits" in capsys.readouterr().out) == (bits < 16)


def test_colours_of_12_bits_are_no_darker_than_grey(folder):
    values = write_deep(folder, 4095, colour=True)
    shown = np.asarray(build(folder, "train", WHOLE).get_image(2)).astype(int)
    assert np.abs(shown - (values >> 4)).max() < 16 and shown.max() == 240  # Pillow drops the low byte


def test_a_file_that_cannot_be_read_for_the_second_time_is_a_fault_and_memory_is_needed_for_it(
    folder, monkeypatch
):
    def read_once(file, side, bits):
        if bits != 16:
            raise OSError("gone")
        return read_square(file, side, bits)

    write_deep(folder, 4000)
    monkeypatch.setattr(scan, "read_square", read_once)
    with monkeypatch.context() as little:
        little.setattr(scan, "free_memory", lambda: 0)
        assert len(build(folder, "train", WHOLE)) == 3  # streamed: read by the loader
    with pytest.raises(UserError, match=r"0\.png \(gone\)"):
        build(folder, "train", WHOLE)


def test_other_bits_are_other_images(folder):
    write_deep(folder, 4000)
    dataset = build(folder, "train", WHOLE).source
    assert dataset.fingerprint != replace(dataset, bits=16).fingerprint


def test_shares_are_rounded_and_one_of_0_makes_both_splits_the_whole_folder(folder, capsys):
    write(folder, *NAMES[:10])
    for share, number in ((0.5, 5), (0.27, 3), (0.06, 1), (0.94, 9)):
        assert len(build(folder, "val", f"folder.val_share={share}")) == number
    assert "folder.val_share" not in capsys.readouterr().out
    for split in ("train", "val"):
        assert names_of(build(folder, split, WHOLE)) == list_pictures(folder)[0]
    assert "folder.val_share" in capsys.readouterr().out
    for share in (0.04, 0.96):
        with pytest.raises(UserError, match=f"val_share {share} of 10 "):
            build(folder, "val", f"folder.val_share={share}")


def test_a_val_folder_takes_the_place_of_the_share_with_a_warning_if_it_is_inside(folder, capsys):
    write(folder, "a.png", "val/b.png")
    other, link = folder.parent / "my images 2", folder.parent / "link"
    write(other, "c.png")
    assert names_of(build(folder, "train", f"folder.val_path={other}")) == ["a.png", "val/b.png"]
    assert names_of(build(folder, "val", f"folder.val_path={other}")) == ["c.png"]
    assert "warning" not in capsys.readouterr().out
    link.symlink_to(folder, target_is_directory=True)
    for path in (folder, link):
        say_once.cache_clear()
        build(path, "val", f"folder.val_path={folder / 'val'}")
        assert f"warning: folder.val_path {folder / 'val'}" in capsys.readouterr().out
