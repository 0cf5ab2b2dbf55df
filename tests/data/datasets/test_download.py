"""Downloads, here from a server on this machine: nothing that was not verified is used."""

import hashlib
import shutil
import socket
from functools import partial

import pytest
from easydict import EasyDict
from torchvision import datasets

from data import build_dataset
from data.datasets.download import fetch
from tests.official_files import offer_archive, write_cifar10, write_cifar100, write_stl10
from utils.errors import UserError

CONTENT = bytes(range(256)) * 9000  # more than one block
SHA256, MD5 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}", f"md5:{hashlib.md5(CONTENT).hexdigest()[:8]}"


@pytest.fixture
def server(tmp_path):
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "weights").write_bytes(CONTENT)
    return tmp_path / "server"


@pytest.mark.parametrize("checksum", [SHA256, SHA256[:15], MD5])
def test_a_file_with_the_right_checksum_is_fetched_into_a_new_folder(checksum, server, address, tmp_path):
    fetch("weights", f"{address}weights", tmp_path / "new" / "file", checksum)
    assert (tmp_path / "new" / "file").read_bytes() == CONTENT
    assert len(list((tmp_path / "new").iterdir())) == 1


DAMAGES = {
    "short": lambda path: path.write_bytes(CONTENT[:-1]),
    "another": lambda path: path.write_bytes(CONTENT[::-1]),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("checksum", [SHA256, MD5])
def test_a_file_that_is_short_or_another_or_missing_leaves_what_was_there(
    damage, checksum, server, address, tmp_path
):
    DAMAGES[damage](server / "weights")
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(UserError) as error:
        fetch("weights", f"{address}weights", path, checksum, "name it in moco_weights=...")
    assert path.read_bytes() == b"before" and {"file", "server"} == {
        entry.name for entry in tmp_path.iterdir()
    }
    message = str(error.value)
    assert (
        all(part in message for part in (f"{address}weights", str(path), "moco_weights=..."))
        and "\n" not in message
    )


# -- data sets that torchvision reads

SETS = {
    "cifar-10": (
        datasets.CIFAR10,
        partial(write_cifar10, train=12, val=4),
        "cifar-10-batches-py/data_batch_3",
    ),
    "cifar-20": (datasets.CIFAR100, partial(write_cifar100, train=12, val=4), "cifar-100-python/train"),
    "stl-10": (
        datasets.STL10,
        partial(write_stl10, train=12, val=4, unlabeled=3),
        "stl10_binary/unlabeled_X.bin",
    ),
}
META = {"cifar-10": "cifar-10-batches-py/batches.meta", "cifar-20": "cifar-100-python/meta"}


@pytest.fixture(params=SETS)
def name(request):
    return request.param


@pytest.fixture
def archive(name, tmp_path, monkeypatch, address):
    """The archive that a download fetches."""
    reader, write, _ = SETS[name]
    write(tmp_path / "server", monkeypatch)
    return offer_archive(reader, tmp_path / "server", address, monkeypatch)


@pytest.fixture
def folder(name, tmp_path, monkeypatch):
    monkeypatch.setenv(f"SCAN_{name.upper().replace('-', '_')}_DIR", str(tmp_path / "own folder"))
    return tmp_path / "own folder"


def build(name, split="train"):
    return build_dataset(EasyDict(train_db_name=name, val_db_name=name), split)


def test_a_missing_data_set_is_downloaded_once_and_one_that_is_there_is_not(
    name, archive, folder, tmp_path, capsys
):
    assert len(build(name)) == 12
    printed = capsys.readouterr().out
    assert str(folder) in printed and SETS[name][0].url in printed
    archive.unlink()  # from now on there is nothing to download
    assert (len(build(name)), len(build(name, "val"))) == (12, 4)
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "server", folder)
    assert (len(build(name)), len(build(name, "val"))) == (12, 4)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_failed_download_names_address_folder_and_key_and_a_part_of_it_is_not_reused(
    share, name, archive, folder
):
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError) as error:
        build(name)
    variable = f"SCAN_{name.upper().replace('-', '_')}_DIR"
    message = str(error.value)
    for part in (
        SETS[name][0].url,
        str(folder / SETS[name][0].base_folder),
        f"db_root_dir.{name}=",
        variable,
    ):
        assert part in message and "\n" not in message
    archive.write_bytes(whole)
    assert len(build(name)) == 12


def test_damaged_and_missing_files_are_fetched_anew_or_refused(name, archive, folder, tmp_path):
    build(name)
    paths = [SETS[name][2], *([META[name]] if name in META else [])]
    for path in paths:
        content = bytearray((folder / path).read_bytes())
        content[-5] ^= 1  # one flipped bit
        for damage in (lambda file, content=content: file.write_bytes(content), lambda file: file.unlink()):
            damage(folder / path)
            assert len(build(name)) == 12
            assert (folder / path).read_bytes() == (tmp_path / "server" / path).read_bytes()
    (folder / paths[0]).unlink()
    archive.unlink()
    (folder / archive.name).unlink()
    with pytest.raises(UserError):
        build(name)


def test_a_folder_without_permission_is_no_reason_to_download(name, archive, folder, monkeypatch, capsys):
    def refused(*_):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(SETS[name][0], "_check_integrity", refused)
    with pytest.raises(PermissionError):
        build(name)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["cifar-10"], indirect=True)
def test_a_download_may_stall_for_a_minute_and_the_timeout_of_others_stays(
    name, archive, folder, monkeypatch
):
    seen, module = [], datasets.utils
    fetch_archive = module.download_and_extract_archive

    def watched(*arguments, **options):
        seen.append(socket.getdefaulttimeout())
        fetch_archive(*arguments, **options)

    monkeypatch.setattr(module, "download_and_extract_archive", watched)
    build(name)
    assert seen == [60] and socket.getdefaulttimeout() is None
