"""A folder is scanned once: its files are checked and remembered until it changes."""

import os

import pytest

from data.folder import scan as folder_scan
from data.folder.scan import FolderScan
from tests.image_trees import picture
from utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Two subfolders of two and one images."""
    for name in ("cats/b.JPEG", "cats/a.JPEG", "dogs/c.JPEG"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(len(name), 40, 30).save(path)
    return tmp_path / "images"


@pytest.fixture
def memory(tmp_path):
    return tmp_path / "scans"


@pytest.fixture
def read(monkeypatch):
    """The names of the files that are checked."""
    names, check = [], folder_scan.fault_of
    monkeypatch.setattr(
        folder_scan, "fault_of", lambda path: names.append(os.path.basename(path)) or check(path)
    )
    return names


def scan(folder, memory, **options):
    return [
        list(files) for files in FolderScan(memory, **options).files_of(folder, ["cats", "dogs"], ".JPEG")
    ]


def touch(folder):
    """As if a file had been added or removed a millisecond later."""
    status = os.stat(folder)
    os.utime(folder, ns=(status.st_atime_ns, status.st_mtime_ns + 10**6))


@pytest.mark.parametrize("num_workers", [0, 3])
def test_the_images_of_each_subfolder_are_sorted_and_all_are_read_once(folder, memory, read, num_workers):
    assert scan(folder, memory, num_workers=num_workers) == [["a.JPEG", "b.JPEG"], ["c.JPEG"]]
    assert sorted(read) == ["a.JPEG", "b.JPEG", "c.JPEG"]
    assert scan(folder, memory) == [["a.JPEG", "b.JPEG"], ["c.JPEG"]]
    assert len(read) == 3


def test_sizes_are_those_of_the_files(folder, memory):
    (cats, _) = FolderScan(memory).files_of(folder, ["cats", "dogs"], ".JPEG")
    assert cats == {name: (folder / "cats" / name).stat().st_size for name in ("a.JPEG", "b.JPEG")}


def test_hidden_files_and_those_of_another_kind_are_no_images_of_the_folder(folder, memory):
    for name in ("._a.JPEG", "notes.txt", "d.png"):
        (folder / "cats" / name).write_bytes(b"no image")
    assert scan(folder, memory) == [["a.JPEG", "b.JPEG"], ["c.JPEG"]]


def test_a_subfolder_that_changed_is_scanned_again_and_the_others_are_not(folder, memory, read):
    scan(folder, memory)
    picture(9, 40, 30).save(folder / "dogs" / "d.JPEG")
    (folder / "dogs" / "c.JPEG").unlink()
    touch(folder / "dogs")
    read.clear()
    assert scan(folder, memory) == [["a.JPEG", "b.JPEG"], ["d.JPEG"]]
    assert read == ["d.JPEG"]


def test_what_was_remembered_of_other_subfolders_stays(folder, memory, read):
    FolderScan(memory).files_of(folder, ["cats"], ".JPEG")
    FolderScan(memory).files_of(folder, ["dogs"], ".JPEG")
    assert len(read) == 3
    scan(folder, memory)
    assert len(read) == 3


def test_a_memory_that_is_damaged_or_cannot_be_written_costs_a_new_scan_and_no_more(folder, memory, read):
    scan(folder, memory)
    (remembered,) = memory.glob("images-*.json")
    for damaged in (
        remembered.read_bytes()[:20],
        b"[]",
        b"null",
        b'{"cats": 1}',
        b'{"cats": {"changed": 1}}',
    ):
        read.clear()
        remembered.write_bytes(damaged)
        assert scan(folder, memory) == [["a.JPEG", "b.JPEG"], ["c.JPEG"]]
        assert len(read) == 3
    in_the_way = memory.with_name("file")
    in_the_way.write_bytes(b"")
    assert scan(folder, in_the_way / "scans") == [["a.JPEG", "b.JPEG"], ["c.JPEG"]]


def spoil(folder):
    """Half an image, and a file without any."""
    half = folder / "cats" / "b.JPEG"
    half.write_bytes(half.read_bytes()[:-100])
    (folder / "dogs" / "empty.JPEG").write_bytes(b"")


def test_files_that_cannot_be_read_are_named_with_the_reason_and_what_to_do(folder, memory):
    spoil(folder)
    for _ in range(2):  # found out, and remembered
        with pytest.raises(UserError) as error:
            scan(folder, memory)
        message = str(error.value)
        assert message.startswith("2 image files cannot be read: ") and "on_error=skip" in message
        assert f"{folder / 'cats' / 'b.JPEG'} (image file is truncated" in message
        assert f"{folder / 'dogs' / 'empty.JPEG'} (no image that Pillow knows)" in message


def test_on_request_they_are_left_out_and_listed(folder, memory, capsys, read):
    spoil(folder)
    assert scan(folder, memory, on_error="skip") == [["a.JPEG"], ["c.JPEG"]]
    (listed,) = memory.glob("images-*-unreadable.txt")
    first, second = listed.read_text().splitlines()
    assert first.startswith(f"{folder / 'cats' / 'b.JPEG'}\timage file is truncated")
    assert second == f"{folder / 'dogs' / 'empty.JPEG'}\tno image that Pillow knows"
    assert (
        f"left out 2 image files that cannot be read; they are listed in {listed}" in capsys.readouterr().out
    )
    scan(folder, memory, on_error="skip")
    assert len(read) == 4


def test_a_subfolder_that_is_missing_or_has_no_readable_image_is_named(folder, memory):
    with pytest.raises(UserError, match=r"images lacks 2 of 3 folders: apes, birds; put them there"):
        FolderScan(memory).files_of(folder, ["apes", "birds", "cats"], ".JPEG")
    (folder / "apes").mkdir()
    with pytest.raises(UserError, match=r"apes holds no readable \*\.JPEG file \(1 of 2 folders"):
        FolderScan(memory).files_of(folder, ["apes", "cats"], ".JPEG")
