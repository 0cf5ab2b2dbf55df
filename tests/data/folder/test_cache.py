"""What both kinds of folders share: caches, the state that they depend on, and reading in threads."""

import json
import os
import threading
import time
import warnings
from unittest.mock import Mock

import pytest

from data.folder import scan
from data.folder.scan import cache_path, cached, decode, files_of, in_threads
from tests.image_trees import picture
from utils.errors import UserError


def test_a_cache_is_named_by_names_sizes_times_the_folder_and_the_settings(tmp_path):
    def path(names="ab", depends=None, folder=tmp_path):
        return cache_path(tmp_path / "scans", folder, names, depends)

    def write(content, time):
        (tmp_path / "a").write_text(content)
        os.utime(tmp_path / "a", ns=(0, time))
        return path()

    others = [write("text", 0), write("text", 1), write("other", 0)]
    (tmp_path / "a").unlink()
    others += [path(), path("ba"), path("a"), path(depends=16), path(folder=tmp_path / "elsewhere")]
    assert len(set(others)) == 8 and write("text", 0) == others[0]


def test_a_cache_is_filled_once_and_again_when_it_is_damaged(tmp_path):
    path, filled = tmp_path / "scans" / "a.npy", []

    def fill(array):
        filled.append(1)
        array[:] = 7
        return {"faults": {}}

    path.parent.mkdir()
    part = path.with_name(f"{path.name}.1.part")  # of another process, killed long ago or at work
    part.write_bytes(b"half")
    manifest = path.with_name(f"{path.name}.json")
    for damaged, content in ((None, b""), (path, b""), (path, b"half"), (manifest, b"{}"), (manifest, b"")):
        if damaged:
            damaged.write_bytes(content)
        filled.clear()
        for array, metadata in (cached(path, (2, 3), fill, str), cached(path, (2, 3), fill, str)):
            assert array.tolist() == [[7] * 3] * 2 and metadata["faults"] == {} and len(filled) == 1
    assert set(path.parent.iterdir()) == {path, manifest, part}


def test_where_caches_are_read_only_those_that_are_there_are_read_and_others_are_kept_elsewhere(
    tmp_path, monkeypatch
):
    fill = Mock(return_value={"faults": {}})
    for name, calls in (("there", 1), ("there", 1), ("other", 2), ("other", 2)):
        cached(tmp_path / f"{name}.npy", (2, 3), fill, str)
        assert fill.call_count == calls
        monkeypatch.setattr("os.access", lambda *_: False)
    assert {path.name for path in tmp_path.iterdir()} == {"there.npy", "there.npy.json"}
    assert not scan.write_list(tmp_path, tmp_path, "duplicates", ["a"]).is_relative_to(tmp_path)


@pytest.mark.parametrize("key", ["digests", "faults", "bits", "sizes"])
@pytest.mark.parametrize("value", ["gone", None, [], 7])
def test_a_cache_whose_manifest_lacks_something_is_made_anew(key, value, tmp_path):
    folder, caches = tmp_path / "p", tmp_path / "scans"
    folder.mkdir()
    picture(0, 20, 20).save(folder / "a.JPEG")

    def found():
        return (
            [str(each) for each in decode(folder, ["a.JPEG"], 8, caches, 0)[:3]],
            files_of(folder.parent, ["p"], caches),
        )

    before = found()
    for manifest in caches.glob("*.json"):
        content = json.loads(manifest.read_text())
        if key in content:
            content[key] = value
            if value == "gone":
                del content[key]
            manifest.write_text(json.dumps(content))
    assert found() == before


def test_a_cache_that_is_not_finished_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path / "scans" / "a.npy", (2, 3), Mock(side_effect=KeyboardInterrupt), str)
    assert list((tmp_path / "scans").iterdir()) == []


READERS = {
    "decode": lambda folder, caches: decode(folder, os.listdir(folder), 8, caches, num_workers=4),
    "files_of": lambda folder, caches: files_of(folder.parent, [folder.name], caches, num_workers=4),
}


FAULTS_OF = {
    "decode": lambda folder, caches: decode(folder, ["a.JPEG", "b.JPEG"], 8, caches, num_workers=0)[1],
    "files_of": lambda folder, caches: {
        name: "left out" for name in {"a.JPEG"} - files_of(folder.parent, ["p"], caches, 0, "skip")[0].keys()
    },
}


@pytest.mark.parametrize("faults_of", FAULTS_OF.values(), ids=FAULTS_OF)
def test_a_file_repaired_without_a_new_size_or_time_is_read_again(faults_of, tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    for number, name in enumerate(("a.JPEG", "b.JPEG")):
        picture(number, 20, 20).save(folder / name)
    path, whole = folder / "a.JPEG", (folder / "a.JPEG").read_bytes()
    for content, faulty in ((bytes(len(whole)), ["a.JPEG"]), (whole, [])):
        path.write_bytes(content)
        os.utime(path, ns=(0, 0))
        for _ in range(2):
            assert list(faults_of(folder, tmp_path / "scans")) == faulty


def test_a_class_folder_that_may_not_be_listed_is_named_and_nothing_is_cached(tmp_path, monkeypatch):
    (tmp_path / "p").mkdir()
    picture(0, 20, 20).save(tmp_path / "p" / "a.JPEG")
    with monkeypatch.context() as closed:
        closed.setattr(os, "listdir", Mock(side_effect=PermissionError(13, "Permission denied")))
        with pytest.raises(UserError, match=f"{tmp_path / 'p'} .*Permission denied"):
            files_of(tmp_path, ["p"], tmp_path / "scans")
    assert len(files_of(tmp_path, ["p"], tmp_path / "scans")[0]) == 1


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_threads_ignore_pillows_warnings_and_leave_the_filters_of_the_process(read, tmp_path, monkeypatch):
    changed_in = set()

    class Recorded(warnings.catch_warnings):
        def __enter__(self):
            changed_in.add(threading.current_thread())
            return super().__enter__()

    (tmp_path / "images").mkdir()
    for number in range(30):  # broken EXIF, of which Pillow warns
        exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x05garbage"
        picture(number, 20, 20).save(tmp_path / "images" / f"{number}.JPEG", exif=exif)
    monkeypatch.setattr(scan, "cpu_count", lambda: 4)
    monkeypatch.setattr(warnings, "catch_warnings", Recorded)
    before = list(warnings.filters)
    with pytest.warns(UserWarning, match="afterwards") as seen:
        read(tmp_path / "images", tmp_path / "scans")
        assert warnings.filters[1:] == before  # but for pytest's own
        warnings.warn("afterwards", stacklevel=1)
    assert len(seen) == 1 and warnings.filters == before
    assert changed_in == {threading.main_thread()}  # filters belong to the process


def test_results_come_in_order_and_an_error_ends_the_threads():
    def wait(number):
        if number == 1000:
            raise MemoryError
        time.sleep(0.001 * (number % 3 == 0))
        return number

    before = threading.active_count()
    assert in_threads(wait, range(600), 3, "reading") == list(range(600))
    with pytest.raises(MemoryError):
        in_threads(wait, range(990, 1100), 3, "reading")
    assert threading.active_count() == before
