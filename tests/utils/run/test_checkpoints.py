import pytest
import torch

from utils.errors import RunError
from utils.run.checkpoints import has_checkpoint, load_checkpoint, previous_of, save_checkpoint
from utils.storage import files
from utils.storage.files import manifest_path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pth.tar"


def save(path, *epochs):
    for epoch in epochs:
        save_checkpoint(path, {"epoch": epoch, "model": torch.full((50,), float(epoch))}, {})


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "flipped": flip,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
}
damages = pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)


def test_where_nothing_was_saved_there_is_nothing(path):
    assert not has_checkpoint(path)
    assert load_checkpoint(path) == ({}, "")


def test_the_last_checkpoint_is_read_and_the_one_before_is_kept(path):
    save(path, 1, 2, 3)
    content, fault = load_checkpoint(path)
    assert (content["epoch"], fault) == (3, "")
    assert torch.equal(content["model"], torch.full((50,), 3.0))
    assert torch.load(previous_of(path), weights_only=True)["epoch"] == 2
    files = {path, previous_of(path)}
    assert set(path.parent.iterdir()) == files | {manifest_path(file) for file in files}


@damages
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_the_next_save_keeps_that_one(path, damage):
    save(path, 1, 2)
    damage(path)
    damaged = path.read_bytes()
    content, fault = load_checkpoint(path)
    assert content["epoch"] == 1
    assert f"{path} ({len(damaged)} bytes)" in fault
    assert (path.parent / "damaged_checkpoint.pth.tar").read_bytes() == damaged
    save(path, 2)
    assert load_checkpoint(path)[0]["epoch"] == 2
    damage(path)
    assert load_checkpoint(path)[0]["epoch"] == 1


@damages
@pytest.mark.parametrize("epochs", [(1,), (1, 2)], ids=["one", "both"])
def test_with_none_whole_all_are_named_and_left_as_they_are(path, damage, epochs):
    save(path, *epochs)
    files = [path, previous_of(path)][: len(epochs)]
    for file in files:
        damage(file)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(RunError, match="--restart") as error:
        load_checkpoint(path)
    assert all(str(file) in str(error.value) for file in files) and "\n" not in str(error.value)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_a_checkpoint_whose_manifest_is_damaged_is_not_trusted(path):
    save(path, 1)
    manifest_path(path).write_bytes(b"")
    with pytest.raises(RunError, match=r"checkpoint\.pth\.tar\.json \(0 bytes\).*--restart"):
        load_checkpoint(path)
    save(path, 2, 3)
    manifest_path(path).write_bytes(b"")
    content, fault = load_checkpoint(path)
    assert content["epoch"] == 2 and f"{manifest_path(path)} (0 bytes)" in fault


def test_a_whole_checkpoint_needs_no_manifest_of_the_one_before(path):
    save(path, 1, 2)
    manifest_path(previous_of(path)).write_bytes(b"")
    content, fault = load_checkpoint(path)
    assert (content["epoch"], fault) == (2, "")


def test_a_disk_that_cannot_read_the_checkpoint_gives_way_too(path, monkeypatch):
    save(path, 1, 2)

    def unreadable(file, mode):
        if file == path:
            raise OSError(5, "Input/output error")
        return open(file, mode)

    monkeypatch.setattr(files, "open", unreadable, raising=False)
    content, fault = load_checkpoint(path)
    assert content["epoch"] == 1 and str(path) in fault and "Input/output error" in fault


def test_a_kill_that_left_only_the_one_before_loses_nothing(path):
    save(path, 1, 2)
    path.unlink()
    assert has_checkpoint(path)
    assert load_checkpoint(path)[0]["epoch"] == 1


def test_files_without_any_manifest_are_read_as_they_are_the_one_before_too(path):
    torch.save({"epoch": 2}, path)
    torch.save({"epoch": 1}, previous_of(path))
    assert load_checkpoint(path) == ({"epoch": 2}, "")
    path.write_bytes(b"no checkpoint")
    content, fault = load_checkpoint(path)
    assert content == {"epoch": 1} and f"{path} (13 bytes)" in fault
