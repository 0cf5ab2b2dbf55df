import os

import pytest

from utils import files
from utils.files import replacing


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.pth.tar"
    path.write_bytes(b"old")
    return path


def test_the_new_content_is_whole_and_alone_in_the_folder(path):
    with replacing(path) as file:
        file.write(b"a longer new ")
        file.write(b"content")
    assert path.read_bytes() == b"a longer new content"
    assert list(path.parent.iterdir()) == [path]


def test_a_path_given_as_text_and_not_there_yet_is_written(tmp_path):
    with replacing(f"{tmp_path}/new.npy") as file:
        file.write(b"content")
    assert (tmp_path / "new.npy").read_bytes() == b"content"


def test_the_old_file_stands_until_the_block_has_ended(path):
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"


@pytest.mark.parametrize("stop", [ValueError, OSError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_the_block_leaves_the_old_file_and_no_part_and_goes_on(path, stop):
    with pytest.raises(stop), replacing(path) as file:
        file.write(b"half of the new")
        raise stop
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_at_the_end_leaves_the_old_file_and_no_part(path, monkeypatch, call):
    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(files.os, call, fail)
    with pytest.raises(OSError, match="No space"), replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_all_bytes_are_on_the_disk_before_the_rename(path, monkeypatch):
    fsync, replace, calls = os.fsync, os.replace, []

    def recorded_fsync(descriptor):
        fsync(descriptor)
        calls.append(("on the disk", os.fstat(descriptor).st_size))

    def recorded_replace(source, target):
        calls.append(("renamed", os.stat(source).st_size))
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", recorded_fsync)
    monkeypatch.setattr(files.os, "replace", recorded_replace)
    with replacing(path) as file:
        file.write(b"12345")
    assert calls == [("on the disk", 5), ("renamed", 5)]
