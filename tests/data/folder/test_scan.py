"""Class folders are scanned once: the files are checked, and the result is cached until a folder changes."""

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
def caches(tmp_path):
    return tmp_path / "scans"


@pytest.fixture
def checked(monkeypatch):
    """The names of the files that are checked."""
    names, check = [], folder_scan.fault_of
    monkeypatch.setattr(
        folder_scan, "fault_of", lambda path: names.append(os.path.basename(path)) or check(path)
    )
    return names


def scan(folder, caches, subfolders=("cats", "dogs"), **options):
    return [list(files) for files in FolderScan(caches, **options).files_of(folder, subfolders, ".JPEG")]


@pytest.mark.parametrize("num_workers", [0, 3])
def test_the_images_of_each_subfolder_are_sorted_with_their_sizes_and_read_once(
    folder, caches, checked, num_workers
):
    for name in ("._a.JPEG", "notes.txt", "d.png"):  # hidden, and of other kinds
        (folder / "cats" / name).write_bytes(b"no image")
    for _ in range(2):
        cats, dogs = FolderScan(caches, num_workers).files_of(folder, ["cats", "dogs"], ".JPEG")
        assert list(cats) == ["a.JPEG", "b.JPEG"] and list(dogs) == ["c.JPEG"]
        assert cats["b.JPEG"] == (folder / "cats" / "b.JPEG").stat().st_size
        assert sorted(checked) == ["a.JPEG", "b.JPEG", "c.JPEG"]


def test_only_a_subfolder_that_changed_is_scanned_again(folder, caches, checked):
    scan(folder, caches)
    picture(9, 40, 30).save(folder / "dogs" / "d.JPEG")
    (folder / "dogs" / "c.JPEG").unlink()
    status = os.stat(folder / "dogs")
    os.utime(folder / "dogs", ns=(0, status.st_mtime_ns + 10**6))  # on a file system with coarse times, too
    checked.clear()
    assert scan(folder, caches) == [["a.JPEG", "b.JPEG"], ["d.JPEG"]]
    assert checked == ["d.JPEG"]


def test_subfolders_are_shared_by_scans_of_more_and_of_fewer(folder, caches, checked):
    scan(folder, caches, ["cats"])
    scan(folder, caches, ["dogs"])
    scan(folder, caches)
    assert sorted(checked) == ["a.JPEG", "b.JPEG", "c.JPEG"]


def test_a_damaged_cache_is_made_anew_and_one_of_another_folder_is_not_used(folder, caches, checked):
    scan(folder, caches)
    (cache,) = caches.glob("images-*.npy")
    manifest = cache.with_name(f"{cache.name}.json")
    for path, content in ((cache, b""), (cache, cache.read_bytes()[:-1]), (manifest, b"{}"), (manifest, b"")):
        checked.clear()
        path.write_bytes(content)
        assert scan(folder, caches) == [["a.JPEG", "b.JPEG"], ["c.JPEG"]] and len(checked) == 3
    (folder.parent / "elsewhere").mkdir()
    moved = folder.rename(folder.parent / "elsewhere" / "images")
    checked.clear()
    scan(moved, caches)
    assert len(checked) == 3


def spoil(folder):
    """Half an image, and a file without any."""
    half = folder / "cats" / "b.JPEG"
    half.write_bytes(half.read_bytes()[:-100])
    (folder / "dogs" / "empty.JPEG").write_bytes(b"")
    return half, folder / "dogs" / "empty.JPEG"


def test_unreadable_files_are_named_with_the_reason_and_the_key_that_leaves_them_out(folder, caches, checked):
    paths = spoil(folder)
    for _ in range(2):  # found out, and read from the cache
        with pytest.raises(UserError) as error:
            scan(folder, caches)
        message = str(error.value)
        assert all(f"{path} (" in message for path in paths)
        assert "truncated" in message and "on_error=skip" in message
    assert len(checked) == 4


def test_with_skip_unreadable_files_are_left_out_and_listed(folder, caches, capsys):
    paths = spoil(folder)
    assert scan(folder, caches, on_error="skip") == [["a.JPEG"], ["c.JPEG"]]
    (listed,) = caches.glob("images-*-unreadable.txt")
    lines = [line.split("\t") for line in listed.read_text().splitlines()]
    assert [name for name, _ in lines] == [str(path) for path in paths] and "truncated" in lines[0][1]
    assert str(listed) in capsys.readouterr().out


def test_a_subfolder_that_is_missing_or_has_no_readable_image_is_named(folder, caches):
    with pytest.raises(UserError, match=r"2 of 3.*apes, birds"):
        scan(folder, caches, ["apes", "birds", "cats"])
    (folder / "apes").mkdir()
    with pytest.raises(UserError, match=r"1 of 2.*apes"):
        scan(folder, caches, ["apes", "cats"])
