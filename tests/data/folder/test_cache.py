"""What both kinds of folders share: caches, the state that they depend on, and reading in threads."""

import os
import threading
import time
import warnings

import numpy as np
import pytest

from data.folder import cache
from data.folder.cache import cache_path, read_cache, reader_threads, state_of, write_cache
from data.folder.decoded import decode
from data.folder.scan import FolderScan
from tests.image_trees import picture


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        (tmp_path / "images" / name).write_text("text")
        os.utime(tmp_path / "images" / name, ns=(0, 0))
    return tmp_path / "images"


def rewrite(folder):
    (folder / "a").write_text("other")
    os.utime(folder / "a", ns=(0, 0))


CHANGES = {
    "size": rewrite,
    "time": lambda folder: os.utime(folder / "a", ns=(0, 1)),
    "gone": lambda folder: (folder / "a").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_state_depends_on_names_sizes_and_times_on_the_folder_and_the_settings(change, folder, tmp_path):
    before = state_of(folder, ["a", "b"])
    assert before == state_of(folder, ["a", "b"])
    others = [state_of(folder, ["b", "a"]), state_of(folder, ["a"]), state_of(folder, ["a", "b"], 16)]
    CHANGES[change](folder)
    others += [state_of(folder, ["a", "b"]), state_of(tmp_path / "elsewhere", ["a", "b"])]
    assert len({before, *others}) == 6


def fill(array):
    array[:] = 7
    return {"faults": {}}


def test_a_cache_has_what_was_written_and_leaves_files_of_other_processes_alone(folder, tmp_path):
    path = cache_path(tmp_path / "scans", folder, ["a", "b"])
    assert read_cache(path) is None
    path.parent.mkdir()
    part = path.with_name(f"{path.name}.1.part")  # of another process, killed long ago or at work
    part.write_bytes(b"half")
    os.utime(part, (0, 0))
    for array, metadata in (write_cache(path, (2, 3), np.uint8, fill), read_cache(path)):
        assert array.tolist() == [[7] * 3] * 2 and metadata["faults"] == {}
    manifest = path.with_name(f"{path.name}.json")
    assert set(path.parent.iterdir()) == {path, manifest, part}


def test_a_cache_that_is_not_finished_leaves_nothing(tmp_path):
    def broken(array):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cache(tmp_path / "scans" / "a.npy", (2, 3), np.uint8, broken)
    assert list((tmp_path / "scans").iterdir()) == []


def decoded(folder, caches):
    decode(folder, sorted(os.listdir(folder)), 8, caches, num_workers=4)


def scanned(folder, caches):
    FolderScan(caches, num_workers=4).files_of(folder.parent, [folder.name], ".JPEG")


@pytest.mark.parametrize("read", [decoded, scanned])
def test_threads_ignore_pillows_warnings_and_leave_the_filters_of_the_process_as_they_were(
    read, tmp_path, monkeypatch
):
    changed_in = set()

    class Recorded(warnings.catch_warnings):
        def __enter__(self):
            changed_in.add(threading.current_thread())
            return super().__enter__()

    (tmp_path / "images").mkdir()
    for number in range(30):  # broken EXIF, of which Pillow warns
        exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x05garbage"
        picture(number, 20, 20).save(tmp_path / "images" / f"{number}.JPEG", exif=exif)
    monkeypatch.setattr(cache, "cpu_count", lambda: 4)
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

    with reader_threads(3, 600, "reading") as mapped:
        assert list(mapped(wait, range(600))) == list(range(600))
    before = threading.active_count()
    with pytest.raises(MemoryError), reader_threads(3, 1100, "reading") as mapped:
        list(mapped(wait, range(990, 1100)))
    assert threading.active_count() == before
