"""CIFAR and STL-10 are opened, verified and fetched by torchvision; here from a server on this machine."""

import shutil
import socket
import sys

import pytest
from easydict import EasyDict
from torchvision.datasets import CIFAR10, CIFAR100, STL10

from data import build_dataset
from tests.official_files import offer_archive, write_cifar10, write_cifar100, write_stl10
from utils.errors import UserError

SETS = {
    "cifar-10": (CIFAR10, write_cifar10, {"train": 12, "val": 4}, "cifar-10-batches-py/data_batch_3"),
    "cifar-20": (CIFAR100, write_cifar100, {"train": 12, "val": 4}, "cifar-100-python/train"),
    "stl-10": (STL10, write_stl10, {"train": 12, "val": 4, "unlabeled": 3}, "stl10_binary/unlabeled_X.bin"),
}


@pytest.fixture(params=SETS)
def name(request):
    return request.param


@pytest.fixture
def archive(name, tmp_path, monkeypatch, address):
    """The archive that a download fetches."""
    reader, write, sizes, _ = SETS[name]
    write(tmp_path / "server", monkeypatch, **sizes)
    return offer_archive(reader, tmp_path / "server", address, monkeypatch)


@pytest.fixture
def folder(name, tmp_path, monkeypatch):
    monkeypatch.setenv(f"SCAN_{name.upper().replace('-', '_')}_DIR", str(tmp_path / "own folder"))
    return tmp_path / "own folder"


def build(name, split="train"):
    return build_dataset(EasyDict(train_db_name=name, val_db_name=name), split)


def test_what_is_missing_is_downloaded_and_unpacked_once(name, archive, folder, capsys):
    assert len(build(name)) == 12
    printed = capsys.readouterr().out
    assert f"{folder}" in printed and f"downloading {SETS[name][0].url}" in printed
    archive.unlink()  # from now on, there is nothing to download
    assert (len(build(name)), len(build(name, "val"))) == (12, 4)
    assert "downloading" not in capsys.readouterr().out


def test_what_lies_there_is_read_without_a_download(name, archive, folder, tmp_path, capsys):
    shutil.copytree(tmp_path / "server", folder)
    archive.unlink()
    assert (len(build(name)), len(build(name, "val"))) == (12, 4)
    assert "downloading" not in capsys.readouterr().out


@pytest.mark.parametrize("archive_is", ["missing", "cut short"])
def test_a_failing_download_is_one_line_with_address_folder_and_the_way_by_hand(archive_is, name, archive, folder):
    if archive_is == "missing":
        archive.unlink()
    else:
        archive.write_bytes(archive.read_bytes()[:-20])
    with pytest.raises(UserError) as error:
        build(name)
    message, variable = str(error.value), f"SCAN_{name.upper().replace('-', '_')}_DIR"
    assert "\n" not in message
    assert f"{name} is missing or incomplete in {folder / SETS[name][0].base_folder}" in message
    for part in (SETS[name][0].url, f"by hand and unpack it in {folder}", f"db_root_dir.{name}=", variable):
        assert part in message


def test_a_part_of_a_download_is_not_reused(name, archive, folder):
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError):
        build(name)
    assert (folder / archive.name).exists()  # the part
    archive.write_bytes(whole)
    assert len(build(name)) == 12


def test_a_damaged_file_is_never_read_but_fetched_anew(name, archive, folder, tmp_path):
    build(name)
    damaged = folder / SETS[name][3]
    content = bytearray(damaged.read_bytes())
    content[-5] ^= 1  # one flipped bit
    damaged.write_bytes(content)
    assert len(build(name)) == 12
    assert damaged.read_bytes() == (tmp_path / "server" / SETS[name][3]).read_bytes()
    damaged.write_bytes(content)
    archive.unlink()
    (folder / archive.name).unlink()
    with pytest.raises(UserError, match="incomplete"):
        build(name)


META = {"cifar-10": "cifar-10-batches-py/batches.meta", "cifar-20": "cifar-100-python/meta"}


@pytest.mark.parametrize("name", META, indirect=True)
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x")])
def test_the_file_of_the_class_names_is_mended_too(damage, name, archive, folder, tmp_path):
    build(name)
    damage(folder / META[name])
    assert len(build(name)) == 12
    assert (folder / META[name]).read_bytes() == (tmp_path / "server" / META[name]).read_bytes()


def test_a_folder_that_may_not_be_read_is_no_reason_to_download(name, archive, folder, monkeypatch, capsys):
    def refused(*_):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(SETS[name][0], "_check_integrity", refused)
    with pytest.raises(PermissionError):
        build(name)
    assert "downloading" not in capsys.readouterr().out


def test_a_download_that_stalls_ends_and_other_connections_keep_their_own_patience(name, archive, folder, monkeypatch):
    seen = []
    module = sys.modules["data.datasets.download"]
    fetch = module.download_and_extract_archive

    def watched(*arguments, **options):
        seen.append(socket.getdefaulttimeout())
        fetch(*arguments, **options)

    monkeypatch.setattr(module, "download_and_extract_archive", watched)
    build(name)
    assert seen == [60] and socket.getdefaulttimeout() is None
