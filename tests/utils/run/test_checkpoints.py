import pytest
import torch

from utils.errors import RunError
from utils.run import checkpoints
from utils.run.checkpoints import has_checkpoint, load_checkpoint, previous_of, save_checkpoint
from utils.storage.files import manifest_path, sha256_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pth.tar"


def save(path, *epochs):
    for epoch in epochs:
        save_checkpoint(
            path, {"epoch": epoch, "model": torch.full((50,), float(epoch))}, {"holds": f"epoch {epoch}"}
        )


def names(folder):
    return {path.name for path in folder.iterdir()}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "flipped": flip,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
}


def test_where_nothing_was_saved_there_is_nothing(path):
    assert not has_checkpoint(path)
    assert load_checkpoint(path) == ({}, "")


def test_the_last_checkpoint_is_read_and_the_one_before_is_kept(path):
    save(path, 1, 2, 3)
    content, fault = load_checkpoint(path)
    assert (content["epoch"], fault) == (3, "")
    assert torch.equal(content["model"], torch.full((50,), 3.0))
    assert torch.load(previous_of(path), weights_only=True)["epoch"] == 2
    files = {"checkpoint.pth.tar", "previous_checkpoint.pth.tar"}
    assert names(path.parent) == files | {f"{name}.json" for name in files}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_is_named_with_its_size(path, damage):
    save(path, 1, 2)
    DAMAGE[damage](path)
    damaged = path.read_bytes()
    content, fault = load_checkpoint(path)
    assert content["epoch"] == 1
    assert f"{path} ({len(damaged)} bytes) is damaged" in fault
    assert (path.parent / "damaged_checkpoint.pth.tar").read_bytes() == damaged


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_whole_one_is_not_lost_by_the_save_after_a_fall_back(path, damage):
    save(path, 1, 2)
    DAMAGE[damage](path)
    load_checkpoint(path)
    save(path, 2)
    assert load_checkpoint(path)[0]["epoch"] == 2
    DAMAGE[damage](path)
    assert load_checkpoint(path)[0]["epoch"] == 1


@pytest.mark.parametrize("damage", DAMAGE)
def test_with_none_whole_both_are_named_and_left_as_they_are(path, damage):
    save(path, 1, 2)
    for file in (path, previous_of(path)):
        DAMAGE[damage](file)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(RunError) as error:
        load_checkpoint(path)
    message = str(error.value)
    assert (
        str(path) in message
        and str(previous_of(path)) in message
        and "--restart" in message
        and "\n" not in message
    )
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_a_damaged_first_checkpoint_has_none_before_it(path):
    save(path, 1)
    flip(path)
    with pytest.raises(RunError, match="no whole checkpoint is left"):
        load_checkpoint(path)


def test_a_checkpoint_whose_record_is_damaged_gives_way_as_well(path):
    save(path, 1, 2)
    manifest_path(path).write_bytes(b"")
    content, fault = load_checkpoint(path)
    assert content["epoch"] == 1 and r"checkpoint.pth.tar.json (0 bytes) is damaged" in fault


def test_a_disk_that_cannot_read_the_checkpoint_gives_way_too(path, monkeypatch):
    save(path, 1, 2)

    def unreadable(file):
        if file == path:
            raise OSError(5, "Input/output error")
        return sha256_of(file)

    monkeypatch.setattr(checkpoints, "sha256_of", unreadable)
    content, fault = load_checkpoint(path)
    assert content["epoch"] == 1 and fault == f"{path}: [Errno 5] Input/output error"


def test_a_single_checkpoint_with_a_damaged_record_is_not_trusted(path):
    save(path, 1)
    manifest_path(path).write_bytes(b"")
    with pytest.raises(RunError, match=r"checkpoint\.pth\.tar\.json \(0 bytes\) is damaged.*--restart"):
        load_checkpoint(path)


def test_a_whole_checkpoint_needs_no_record_of_the_one_before(path):
    save(path, 1, 2)
    manifest_path(previous_of(path)).write_bytes(b"")
    content, fault = load_checkpoint(path)
    assert (content["epoch"], fault) == (2, "")


def test_a_kill_that_left_only_the_one_before_loses_nothing(path):
    save(path, 1, 2)
    path.unlink()
    assert has_checkpoint(path)
    assert load_checkpoint(path)[0]["epoch"] == 1


def test_a_file_without_any_record_is_read_as_it_is(path):
    torch.save({"weight": torch.ones(2)}, path)
    content, fault = load_checkpoint(path)
    assert torch.equal(content["weight"], torch.ones(2)) and fault == ""
    path.write_bytes(b"no checkpoint")
    with pytest.raises(RunError, match=r"checkpoint\.pth\.tar \(13 bytes\) cannot be read"):
        load_checkpoint(path)
