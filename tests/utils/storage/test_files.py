import errno
import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from utils.errors import RunError
from utils.storage import files
from utils.storage.files import manifest_path, new_array, read_manifest, sha256_of, verify_manifest

storage_errors, writable_folder = files.storage_errors, files.writable_folder
write_whole, save_with_manifest = files.write_whole, files.save_with_manifest


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.pth.tar"
    path.write_bytes(b"old")
    return path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_new_files_are_whole_alone_in_the_folder_and_an_old_one_is_moved_where_it_is_wanted(path):
    new = {path: b"a longer content", path.with_name("new.npy"): b"12"}
    write_whole(new, replaced={path: path.with_name("kept")})
    assert contents(path.parent) == {path.name: b"a longer content", "new.npy": b"12", "kept": b"old"}


def failing_with(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    "number, remedy",
    [(errno.ENOSPC, "space"), (errno.EDQUOT, "quota"), (errno.EROFS, "writable"), (errno.EIO, "disk")],
)
def test_a_disk_that_fails_leaves_the_old_file_and_says_what_to_do(path, monkeypatch, call, number, remedy):
    monkeypatch.setattr(files.os, call, failing_with(OSError(number, "its reason")))
    with pytest.raises(RunError, match=f"its reason.*{remedy}") as error:
        write_whole({path: b"new"})
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert contents(path.parent) == {"model.pth.tar": b"old"}


@pytest.mark.parametrize(
    "number, doing, elsewhere, remedy, none_of_these",
    [
        (errno.ENAMETOOLONG, "write", "give another --out FILE", "shorten.*--out FILE", "disk"),
        (errno.ENAMETOOLONG, "read", "", "shorten", "disk"),
        (errno.EACCES, "write", "give another --out FILE", "writable.*--out FILE", "root_dir"),
        (errno.EACCES, "read", "", "readable", "writable"),
        (errno.ENOSPC, "write", "give another --out FILE", "space", "--out"),
    ],
)
def test_the_remedy_is_by_what_was_done_not_by_the_number_alone(
    number, doing, elsewhere, remedy, none_of_these
):
    with (
        pytest.raises(RunError, match=f"/place.*{remedy}") as error,
        storage_errors("/place", doing, elsewhere),
    ):
        raise OSError(number, os.strerror(number))
    assert none_of_these not in str(error.value)


def test_caches_of_a_folder_that_is_read_only_are_kept_elsewhere_and_it_is_said_once(
    tmp_path, monkeypatch, capsys
):
    assert writable_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b" and (tmp_path / "a" / "b").is_dir()
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    first, second = (writable_folder(tmp_path / "a" / "b") for _ in range(2))
    assert first == second and first.is_dir() and not first.is_relative_to(tmp_path)
    assert capsys.readouterr().out.count(str(tmp_path / "a" / "b")) == 1


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_a_folder_for_caches_that_cannot_be_made_is_as_good_as_read_only(number, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", failing_with(OSError(number, os.strerror(number))))
    assert writable_folder(tmp_path / "new") != tmp_path / "new"


def test_an_interruption_goes_on_and_leaves_the_old_file(path, monkeypatch):
    monkeypatch.setattr(files.os, "fsync", failing_with(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
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


def test_all_files_are_on_the_disk_before_the_first_rename_and_the_folder_after_the_last(path, monkeypatch):
    calls = []

    def recorded_fsync(descriptor):
        is_folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
        calls.append("folder" if is_folder else os.fstat(descriptor).st_size)

    monkeypatch.setattr(files.os, "fsync", recorded_fsync)
    monkeypatch.setattr(files.os, "replace", lambda source, target: calls.append(target.name))
    write_whole({path: b"1", path.with_name("b"): b"22"})
    assert calls == [1, 2, path.name, "b", "folder"]


def test_a_folder_that_has_vanished_is_named(tmp_path):
    with pytest.raises(RunError, match=r"gone/model.*folder"):
        write_whole({tmp_path / "gone" / "model.pth.tar": b"new"})


def test_a_manifest_has_the_hash_the_size_and_the_metadata_of_its_file(path):
    save_with_manifest(path, b"abc", {"holds": "weights", "images": 3})
    manifest = json.loads((path.parent / "model.pth.tar.json").read_text())
    # the SHA-256 of "abc" is the first example of FIPS 180-2
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert manifest == {"sha256": digest, "bytes": 3, "holds": "weights", "images": 3}
    assert verify_manifest(path) == manifest and path.read_bytes() == b"abc"


def test_the_file_before_and_its_manifest_are_kept_where_they_are_wanted(path):
    previous = path.with_name("previous")
    for content in (b"first", b"second", b"third"):
        save_with_manifest(path, content, {"holds": content.decode()}, previous)
    assert [verify_manifest(file)["holds"] for file in (path, previous)] == ["third", "second"]
    assert len(contents(path.parent)) == 4


@pytest.mark.parametrize("spoiled", [b"Content", b"conten", b"", b"content\0"])
def test_a_file_that_is_not_the_one_of_its_manifest_is_named_with_its_size(path, spoiled):
    assert read_manifest(path) is verify_manifest(path) is None
    save_with_manifest(path, b"content", {})
    path.write_bytes(spoiled)
    with pytest.raises(RunError, match=rf"model\.pth\.tar \({len(spoiled)} bytes\)"):
        verify_manifest(path)


@pytest.mark.parametrize("manifest", [b"", b"{", b"[]", b"{}", b'{"sha256": 3}', b"\xff", 9999 * b"["])
def test_a_damaged_manifest_is_named_with_its_size(path, manifest):
    manifest_path(path).write_bytes(manifest)
    with pytest.raises(RunError, match=rf"model\.pth\.tar\.json \({len(manifest)} bytes\)"):
        verify_manifest(path)


@pytest.mark.parametrize("survived", range(4))
def test_killed_between_any_two_renames_some_manifest_has_the_hash_of_a_whole_file(
    path, monkeypatch, survived
):
    previous, replace, renames = path.with_name("previous"), os.replace, iter(range(survived))
    save_with_manifest(path, b"first", {}, previous)
    save_with_manifest(path, b"second", {}, previous)
    monkeypatch.setattr(files.os, "replace", lambda *names: (next(renames), replace(*names)))
    with pytest.raises(StopIteration):  # stands for a kill
        save_with_manifest(path, b"third", {}, previous)
    hashes = {manifest["sha256"] for file in (path, previous) if (manifest := read_manifest(file))}
    whole = [file.read_bytes() for file in (path, previous) if file.exists() and sha256_of(file) in hashes]
    assert b"second" in whole


def an_hour_old(path, content):
    path.write_bytes(content)
    os.utime(path, (time.time() - 3600,) * 2)
    return path


def test_a_file_larger_than_a_block_is_read_once_for_its_hash(path, monkeypatch):
    content = os.urandom((1 << 20) + 5)
    first = sha256_of(an_hour_old(path, content))
    monkeypatch.setattr(files.hashlib, "sha256", failing_with(AssertionError("read again")))
    assert sha256_of(path) == first
    monkeypatch.undo()
    assert first == hashlib.sha256(content).hexdigest()


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
    monkeypatch.setattr(os, "posix_fallocate", failing_with(OSError(errno.ENOSPC, "")), raising=False)
    with pytest.raises(RunError, match="space"), new_array(tmp_path / "big.npy", (9,), np.int8, {}):
        raise AssertionError("the block began")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_block_is_not_said_to_be_one_of_the_storage(tmp_path):
    with pytest.raises(OSError, match="too many"), new_array(tmp_path / "big.npy", (3,), np.uint8, {}):
        raise OSError("too many open files")
    assert list(tmp_path.iterdir()) == []
