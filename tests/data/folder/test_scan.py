"""Class folders are scanned once: the files are checked, and the result is cached until a folder changes."""

import os

import pytest

from data.folder import scan
from data.folder.scan import files_of
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
def caches(tmp_path):
    return tmp_path / "scans"


@pytest.fixture
def checked(monkeypatch):
    """The names of the files that are checked."""
    names, check = [], scan.fault_of
    monkeypatch.setattr(scan, "fault_of", lambda path: names.append(path.name) or check(path))
    return names


@pytest.mark.parametrize("num_workers", [0, 3])
def test_images_of_a_class_are_sorted_with_sizes_and_read_once(folder, caches, checked, num_workers):
    for name in ("._a.JPEG", "notes.txt", "d.png"):  # hidden, and of other kinds
        (folder / "cats" / name).write_bytes(b"no image")
    for _ in range(2):
        cats, dogs = files_of(folder, ["cats", "dogs"], caches, num_workers)
        assert list(cats) == ["a.JPEG", "b.JPEG"] and list(dogs) == ["c.JPEG"]
        assert cats["b.JPEG"] == (folder / "cats" / "b.JPEG").stat().st_size
        assert sorted(checked) == ["a.JPEG", "b.JPEG", "c.JPEG"]


def test_only_a_class_that_is_new_or_changed_is_scanned(folder, caches, checked):
    files_of(folder, ["cats"], caches)
    files_of(folder, ["dogs", "cats"], caches)
    assert checked == ["a.JPEG", "b.JPEG", "c.JPEG"]
    picture(9, 40, 30).save(folder / "dogs" / "d.JPEG")
    (folder / "dogs" / "c.JPEG").unlink()
    status = os.stat(folder / "dogs")
    os.utime(folder / "dogs", ns=(0, status.st_mtime_ns + 10**6))  # on a file system with coarse times, too
    checked.clear()
    found = files_of(folder, ["cats", "dogs"], caches)
    assert [list(files) for files in found] == [["a.JPEG", "b.JPEG"], ["d.JPEG"]]
    assert checked == ["d.JPEG"]
    (folder.parent / "elsewhere").mkdir()
    files_of(folder.rename(folder.parent / "elsewhere" / "images"), ["cats"], caches)
    assert checked == ["d.JPEG", "a.JPEG", "b.JPEG"]  # a cache belongs to one place


def test_unreadable_files_are_named_or_left_out_and_listed(folder, caches, checked, capsys):
    half, empty = spoilt = folder / "cats" / "b.JPEG", folder / "dogs" / "empty.JPEG"
    half.write_bytes(half.read_bytes()[:-100])
    empty.write_bytes(b"")
    with pytest.raises(UserError, match=r"truncated.*on_error=skip") as error:
        files_of(folder, ["cats", "dogs"], caches)
    assert all(f"{path} (" in str(error.value) for path in spoilt)
    found = files_of(folder, ["cats", "dogs"], caches, on_error="skip")
    assert [list(files) for files in found] == [["a.JPEG"], ["c.JPEG"]]
    assert len(checked) == 4 + 2  # those that could not be read once more: they may have been repaired
    (listed,) = caches.glob("images-*-unreadable.txt")
    lines = listed.read_text().splitlines()
    assert [line.partition(" (")[0] for line in lines] == [str(path) for path in spoilt]
    assert "truncated" in lines[0] and str(listed) in capsys.readouterr().out


def test_classes_that_are_missing_or_have_no_readable_image_are_named(folder, caches):
    (folder / "birds").mkdir()
    (folder / "dogs" / "c.JPEG").write_bytes(b"")
    with pytest.raises(UserError, match=r"3 of 4.*apes, birds, dogs.*db_root_dir\.imagenet="):
        files_of(folder, ["apes", "birds", "cats", "dogs"], caches, on_error="skip")
