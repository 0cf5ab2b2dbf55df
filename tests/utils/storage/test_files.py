import errno
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from utils.errors import RunError
from utils.storage import files
from utils.storage.files import (
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


def test_the_new_contents_are_whole_and_nothing_else_is_in_the_folder(path):
    write_whole({path: b"a longer new content", path.with_name("new.npy"): b"12"})
    assert contents(path.parent) == {"model.pth.tar": b"a longer new content", "new.npy": b"12"}


def test_what_stood_there_is_kept_where_it_is_wanted(path):
    write_whole({path: b"new"}, replaced={path: path.with_name("kept")})
    assert contents(path.parent) == {"model.pth.tar": b"new", "kept": b"old"}


def fail(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_the_old_file_and_no_part_and_says_what_to_do(path, monkeypatch, call):
    monkeypatch.setattr(files.os, call, fail)
    with pytest.raises(RunError) as error:
        write_whole({path: b"new"})
    message = str(error.value)
    assert message.startswith(f"cannot write {path}: No space left on device; free some space")
    assert "\n" not in message
    assert contents(path.parent) == {"model.pth.tar": b"old"}


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interruption_goes_on_and_leaves_the_old_file_and_no_part(path, monkeypatch, stop):
    def interrupt(_):
        raise stop

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(stop):
        write_whole({path: b"new"})
    assert contents(path.parent) == {"model.pth.tar": b"old"}


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


@pytest.mark.parametrize(
    "number, remedy",
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "free some space"),
        (errno.EROFS, "root_dir="),
        (errno.EACCES, "writable"),
        (errno.EIO, "mend the storage"),
    ],
)
def test_each_kind_of_failure_has_its_remedy(path, monkeypatch, number, remedy):
    def fail_so(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", fail_so)
    with pytest.raises(RunError, match=remedy):
        write_whole({path: b"new"})


def test_a_folder_that_has_vanished_is_said_to_be_gone(tmp_path):
    with pytest.raises(RunError, match=r"cannot write .*gone/model.*the folder is gone"):
        write_whole({tmp_path / "gone" / "model.pth.tar": b"new"})
    assert list(tmp_path.iterdir()) == []


# -- records


def test_a_record_beside_the_file_has_its_hash_its_size_and_the_facts(path):
    save_with_manifest(path, b"abc", {"holds": "weights", "images": 3})
    record = json.loads((path.parent / "model.pth.tar.json").read_text())
    # the SHA-256 of "abc" is the first example of FIPS 180-2
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert record == {"sha256": digest, "bytes": 3, "holds": "weights", "images": 3}
    assert verify_manifest(path) == record
    assert path.read_bytes() == b"abc"


def test_a_file_without_a_record_has_none(path):
    assert read_manifest(path) is None and verify_manifest(path) is None


def test_the_file_before_and_its_record_are_kept_where_they_are_wanted(path):
    previous = path.with_name("previous")
    for content in (b"first", b"second", b"third"):
        save_with_manifest(path, content, {"holds": content.decode()}, previous)
    assert verify_manifest(path)["holds"] == "third"
    assert verify_manifest(previous)["holds"] == "second"
    assert len(contents(path.parent)) == 4


SPOILED = {
    "a flipped bit": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "cut off": lambda content: content[:-1],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"\0",
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_file_that_is_not_the_one_of_its_record_is_named_with_its_size(path, spoil):
    save_with_manifest(path, b"content", {})
    spoiled = SPOILED[spoil](b"content")
    path.write_bytes(spoiled)
    with pytest.raises(RunError) as error:
        verify_manifest(path)
    message = str(error.value)
    assert str(path) in message and f"({len(spoiled)} bytes)" in message and "\n" not in message


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b"{}", b'{"sha256": 3}', b"\xff"])
def test_a_damaged_record_is_named_with_its_size(path, record):
    manifest_path(path).write_bytes(record)
    with pytest.raises(RunError, match=rf"model\.pth\.tar\.json \({len(record)} bytes\) is damaged"):
        verify_manifest(path)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("survived", range(4))
def test_killed_between_any_two_renames_some_record_has_the_hash_of_a_whole_file(path, monkeypatch, survived):
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
    hashes = {record["sha256"] for file in (path, previous) if (record := read_manifest(file))}
    whole = [file.read_bytes() for file in (path, previous) if file.exists() and sha256_of(file) in hashes]
    assert b"second" in whole


def test_a_new_file_is_never_without_its_record(path, monkeypatch):
    replace, seen = os.replace, []

    def watched(source, target):
        replace(source, target)
        seen.append(path.exists() and not manifest_path(path).exists())

    path.unlink()
    monkeypatch.setattr(files.os, "replace", watched)
    save_with_manifest(path, b"new", {})
    assert seen == [False, False]


def test_sha256_of_reads_large_files_in_blocks(tmp_path):
    content = os.urandom((1 << 20) + 5)
    (tmp_path / "large").write_bytes(content)
    assert sha256_of(tmp_path / "large") == hashlib.sha256(content).hexdigest()


def test_an_array_too_large_for_memory_is_filled_in_place_and_its_manifest_stands_first(
    tmp_path, monkeypatch
):
    named, replace = [], os.replace
    monkeypatch.setattr(
        os, "replace", lambda part, path: named.append(Path(path).name) or replace(part, path)
    )
    path, metadata = tmp_path / "big.npy", {"holds": "much"}
    with new_array(path, (2, 3), np.uint8, metadata) as array:
        array[:] = [[1, 2, 3], [4, 5, 6]]
        metadata["rows"] = 2
    assert named == ["big.npy.json", "big.npy"]
    assert np.load(path).tolist() == [[1, 2, 3], [4, 5, 6]]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    size = path.stat().st_size
    assert verify_manifest(path) == {"sha256": digest, "bytes": size, "holds": "much", "rows": 2}


def test_an_array_without_room_on_the_disk_is_refused_before_it_is_filled(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(RunError, match="free some space"), new_array(tmp_path / "big.npy", (9,), np.int8, {}):
        raise AssertionError("the block began")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_block_that_writes_is_not_said_to_be_one_of_the_storage(tmp_path):
    with (
        pytest.raises(OSError, match="too many open files"),
        new_array(tmp_path / "big.npy", (3,), np.uint8, {}),
    ):
        raise OSError("too many open files")
    assert list(tmp_path.iterdir()) == []
