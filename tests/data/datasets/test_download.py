"""Downloads, here from a server on this machine: nothing that was not verified is used."""

import hashlib
import shutil
import socket
from unittest.mock import Mock

import pytest
from torch import hub
from torchvision import datasets

from data.datasets.download import fetch
from tests.official_files import build, offer_archive, write_cifar10, write_cifar100, write_stl10
from utils.errors import UserError

CONTENT = bytes(range(256)) * 9000  # more than one block
SHA256, MD5 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}", f"md5:{hashlib.md5(CONTENT).hexdigest()[:8]}"


@pytest.mark.parametrize("checksum", [SHA256, SHA256[:15], MD5])
@pytest.mark.parametrize("content", [CONTENT, CONTENT[:-1], CONTENT[::-1], None])
def test_a_fetched_file_replaces_another_only_if_its_checksum_is_right(content, checksum, address, tmp_path):
    (tmp_path / "server").mkdir()
    if content is not None:
        (tmp_path / "server" / "weights").write_bytes(content)
    path = tmp_path / "new" / "file"
    if content == CONTENT:
        fetch("weights", f"{address}weights", path, checksum)
        assert path.read_bytes() == CONTENT
    else:
        path.parent.mkdir()
        path.write_bytes(b"before")
        with pytest.raises(UserError) as error:
            fetch("weights", f"{address}weights", path, checksum, "name it in weights=...")
        assert path.read_bytes() == b"before" and "\n" not in str(error.value)
        assert all(part in str(error.value) for part in (address, str(path), "weights=..."))
    assert list(path.parent.iterdir()) == [path]  # no temporary file is left


# -- data sets that torchvision reads

SIZES = {"train": 12, "val": 4}
SETS = {  # name: torchvision's class, writer, files whose damage is noticed, environment variable
    "cifar-10": (datasets.CIFAR10, write_cifar10, ["data_batch_3", "batches.meta"], "SCAN_CIFAR_10_DIR"),
    "cifar-20": (datasets.CIFAR100, write_cifar100, ["train", "meta"], "SCAN_CIFAR_20_DIR"),
    "stl-10": (datasets.STL10, write_stl10, ["unlabeled_X.bin"], "SCAN_STL_10_DIR"),
}


@pytest.fixture(params=SETS)
def name(request):
    return request.param


@pytest.fixture
def archive(name, tmp_path, monkeypatch, address):
    """The archive that a download fetches."""
    reader, write, *_ = SETS[name]
    write(tmp_path / "server", monkeypatch, **SIZES)
    return offer_archive(reader, tmp_path / "server", address, monkeypatch)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "own folder"


def test_a_data_set_is_downloaded_only_if_it_is_missing(name, archive, folder, tmp_path, capsys):
    assert len(build(name, folder)) == 12
    printed = capsys.readouterr().out
    assert str(folder) in printed and SETS[name][0].url in printed
    archive.unlink()  # from now on there is nothing to download
    assert {split: len(build(name, folder, split)) for split in SIZES} == SIZES
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "server", folder)
    assert {split: len(build(name, folder, split)) for split in SIZES} == SIZES
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_failed_download_names_the_ways_by_hand_and_no_part_of_it_is_used(share, name, archive, folder):
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError) as error:
        build(name, folder)
    parts = (SETS[name][0].url, str(folder), f"db_root_dir.{name}=", SETS[name][3])
    assert [part for part in parts if part not in str(error.value)] == [] and "\n" not in str(error.value)
    archive.write_bytes(whole)
    assert len(build(name, folder)) == 12


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip_a_bit, lambda path: path.unlink()], ids=["flipped", "missing"])
def test_damaged_and_missing_files_are_fetched_again_or_refused(damage, name, archive, folder, tmp_path):
    build(name, folder)
    place = SETS[name][0].base_folder
    for file in SETS[name][2]:
        damage(folder / place / file)
        assert len(build(name, folder)) == 12
        assert (folder / place / file).read_bytes() == (tmp_path / "server" / place / file).read_bytes()
    damage(folder / place / SETS[name][2][0])
    archive.unlink()
    (folder / archive.name).unlink()
    with pytest.raises(UserError):
        build(name, folder)


@pytest.mark.parametrize("name", ["cifar-10"], indirect=True)
def test_a_folder_without_permission_is_no_reason_to_download(name, archive, folder, monkeypatch, capsys):
    monkeypatch.setattr(SETS[name][0], "_check_integrity", Mock(side_effect=PermissionError))
    with pytest.raises(PermissionError):
        build(name, folder)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["cifar-10"], indirect=True)
def test_a_download_may_stall_for_a_minute_which_is_no_matter_of_others(name, archive, folder, monkeypatch):
    seen, download = [], hub.download_url_to_file

    def watched(*arguments, **options):
        seen.append(socket.getdefaulttimeout())
        download(*arguments, **options)

    monkeypatch.setattr(hub, "download_url_to_file", watched)
    build(name, folder)
    assert seen == [60] and socket.getdefaulttimeout() is None
