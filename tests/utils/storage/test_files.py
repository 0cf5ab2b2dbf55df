import errno
import hashlib
import io
import json
import os
import time

import numpy as np
import pytest

from utils.errors import RunError
from utils.storage import files
from utils.storage.files import (
    fresh_manifest,
    manifest_path,
    new_array,
    read_manifest,
    save_with_manifest,
    sha256_of,
    verify_manifest,
    write_whole,
)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.pth.tar"
    path.write_bytes(b"old")
    return path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- whole or not at all


def test_new_files_are_whole_alone_in_the_folder_and_an_old_one_is_moved_where_it_is_wanted(path):
    new = {path: b"a longer content", path.with_name("new.npy"): b"12"}
    write_whole(new, replaced={path: path.with_name("kept")})
    assert contents(path.parent) == {path.name: b"a longer content", "new.npy": b"12", "kept": b"old"}


def failing_with(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    "number, remedy",
    [(errno.ENOSPC, "space"), (errno.EDQUOT, "quota"), (errno.EROFS, "root_dir="), (errno.EIO, "disk")],
)
def test_a_disk_that_fails_leaves_the_old_file_and_says_what_to_do(path, monkeypatch, call, number, remedy):
    monkeypatch.setattr(files.os, call, failing_with(number))
    with pytest.raises(RunError, match=remedy) as error:
        write_whole({path: b"new"})
    message = str(error.value)
    assert str(path) in message and os.strerror(number) in message and "\n" not in message
    assert contents(path.parent) == {"model.pth.tar": b"old"}


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_an_interruption_goes_on_and_leaves_the_old_file(path, monkeypatch, stop):
    def interrupt(_):
        raise stop

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(stop):
        write_whole({path: b"new"})
    assert contents(path.parent) == {"model.pth.tar": b"old"}


def test_the_temporary_file_of_another_writer_is_neither_used_nor_removed(path, monkeypatch):
    names = iter(["taken", "free"])
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: next(names))
    other = path.with_name("model.pth.tar.taken.part")
    other.write_bytes(b"half")
    with pytest.raises(RunError):
        write_whole({path: b"new"})
    assert contents(path.parent) == {"model.pth.tar": b"old", other.name: b"half"}
    write_whole({path: b"new"})
    assert contents(path.parent) == {"model.pth.tar": b"new", other.name: b"half"}


def test_all_files_are_on_the_disk_before_the_first_rename_and_the_folder_after_the_last(
    tmp_path, monkeypatch
):
    fsync, replace, calls = os.fsync, os.replace, []

    def recorded_fsync(descriptor):
        fsync(descriptor)
        is_folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
        calls.append("folder" if is_folder else os.fstat(descriptor).st_size)

    def recorded_replace(source, target):
        calls.append(target.name)
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", recorded_fsync)
    monkeypatch.setattr(files.os, "replace", recorded_replace)
    write_whole({tmp_path / "a": b"1", tmp_path / "b": b"22"})
    assert calls == [1, 2, "a", "b", "folder"]


def test_a_folder_that_has_vanished_is_named(tmp_path):
    with pytest.raises(RunError, match=r"gone/model.*folder"):
        write_whole({tmp_path / "gone" / "model.pth.tar": b"new"})
    assert list(tmp_path.iterdir()) == []


# -- manifests


def test_a_manifest_has_the_hash_the_size_and_the_metadata_of_its_file(path):
    save_with_manifest(path, b"abc", {"holds": "weights", "images": 3})
    manifest = json.loads((path.parent / "model.pth.tar.json").read_text())
    # the SHA-256 of "abc" is the first example of FIPS 180-2
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert manifest == {"sha256": digest, "bytes": 3, "holds": "weights", "images": 3}
    assert verify_manifest(path) == manifest
    assert path.read_bytes() == b"abc"


def test_the_file_before_and_its_manifest_are_kept_where_they_are_wanted(path):
    previous = path.with_name("previous")
    for content in (b"first", b"second", b"third"):
        save_with_manifest(path, content, {"holds": content.decode()}, previous)
    assert verify_manifest(path)["holds"] == "third"
    assert verify_manifest(previous)["holds"] == "second"
    assert len(contents(path.parent)) == 4


def test_a_cache_is_fresh_if_it_is_whole_and_was_made_with_the_same_metadata(path):
    assert read_manifest(path) is verify_manifest(path) is fresh_manifest(path, {}) is None
    save_with_manifest(path, b"content", {"side": 32, "rows": 3})
    assert fresh_manifest(path, {"side": 32})["rows"] == 3
    assert fresh_manifest(path, {"side": 64}) is None
    path.write_bytes(b"another")
    assert fresh_manifest(path, {"side": 32}) is None
    path.unlink()
    assert fresh_manifest(path, {"side": 32}) is None


@pytest.mark.parametrize("spoiled", [b"Content", b"conten", b"", b"content\0"])
def test_a_file_that_is_not_the_one_of_its_manifest_is_named_with_its_size(path, spoiled):
    save_with_manifest(path, b"content", {})
    path.write_bytes(spoiled)
    with pytest.raises(RunError) as error:
        verify_manifest(path)
    message = str(error.value)
    assert str(path) in message and f"({len(spoiled)} bytes)" in message and "\n" not in message


@pytest.mark.parametrize("manifest", [b"", b"{", b"[]", b"{}", b'{"sha256": 3}', b"\xff"])
def test_a_damaged_manifest_is_named_with_its_size(path, manifest):
    manifest_path(path).write_bytes(manifest)
    with pytest.raises(RunError, match=rf"model\.pth\.tar\.json \({len(manifest)} bytes\)"):
        verify_manifest(path)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("survived", range(4))
def test_killed_between_any_two_renames_some_manifest_has_the_hash_of_a_whole_file(
    path, monkeypatch, survived
):
    previous, replace, renames = path.with_name("previous"), os.replace, []
    save_with_manifest(path, b"first", {}, previous)
    save_with_manifest(path, b"second", {}, previous)

    def killed_after(source, target):
        if len(renames) == survived:
            raise Killed
        renames.append(target)
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", killed_after)
    with pytest.raises(Killed):
        save_with_manifest(path, b"third", {}, previous)
    hashes = {manifest["sha256"] for file in (path, previous) if (manifest := read_manifest(file))}
    whole = [file.read_bytes() for file in (path, previous) if file.exists() and sha256_of(file) in hashes]
    assert b"second" in whole


# -- hashes


def an_hour_old(path, content):
    path.write_bytes(content)
    hour_ago = time.time_ns() - 3600 * 10**9
    os.utime(path, ns=(hour_ago, hour_ago))
    return path


def test_a_file_larger_than_a_block_is_read_once_for_its_hash(path, monkeypatch):
    class Unreadable(io.FileIO):
        def read(self, *_):
            raise AssertionError("read again")

    content = os.urandom((1 << 20) + 5)
    first = sha256_of(an_hour_old(path, content))
    monkeypatch.setattr(files, "open", Unreadable, raising=False)
    assert sha256_of(path) == first == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("in_place", [True, False])
def test_a_replaced_file_is_noticed(path, in_place):
    before, new = sha256_of(an_hour_old(path, b"old")), an_hour_old(path.with_name("new"), b"new")
    path.write_bytes(b"new") if in_place else os.replace(new, path)
    assert sha256_of(path) == hashlib.sha256(b"new").hexdigest() != before


def test_a_file_that_changed_just_now_is_read_again(path):
    """It may change once more within one tick of the file system's clock."""
    path.write_bytes(b"old")
    sha256_of(path)
    times = os.stat(path)
    path.write_bytes(b"new")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert sha256_of(path) == hashlib.sha256(b"new").hexdigest()


# -- arrays larger than memory


def test_an_array_is_filled_in_place_and_its_manifest_is_there_first(tmp_path, monkeypatch):
    path, metadata, named, replace = tmp_path / "big.npy", {"holds": "much"}, [], os.replace
    monkeypatch.setattr(os, "replace", lambda part, path: named.append(path.name) or replace(part, path))
    with new_array(path, (2, 3), np.uint8, metadata) as array:
        array[:] = [[1, 2, 3], [4, 5, 6]]
        metadata["rows"] = 2
    assert named == ["big.npy.json", "big.npy"]
    assert np.load(path).tolist() == [[1, 2, 3], [4, 5, 6]]
    digest, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
    assert verify_manifest(path) == {"sha256": digest, "bytes": size, "holds": "much", "rows": 2}


def test_an_array_without_room_on_the_disk_is_refused_before_it_is_filled(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", failing_with(errno.ENOSPC), raising=False)
    with pytest.raises(RunError, match="space"), new_array(tmp_path / "big.npy", (9,), np.int8, {}):
        raise AssertionError("the block began")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_block_is_not_said_to_be_one_of_the_storage(tmp_path):
    array = new_array(tmp_path / "big.npy", (3,), np.uint8, {})
    with pytest.raises(OSError, match="too many open files"), array:
        raise OSError("too many open files")
    assert list(tmp_path.iterdir()) == []
