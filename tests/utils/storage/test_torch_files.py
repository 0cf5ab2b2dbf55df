"""PyTorch files: what is read, and what is refused without running it."""

import argparse
import os
import pickle
import struct

import numpy as np
import pytest
import torch

from utils.errors import RunError, UserError
from utils.storage.files import save_with_manifest
from utils.storage.torch_files import read_file, read_tensors, to_bytes


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pth.tar"


def test_a_folder_is_not_said_to_be_missing_and_the_file_in_it_is_named(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path} .*folder.*{tmp_path}/model\.pth\.tar"):
        read_file(tmp_path)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_file_is_not_said_to_be_damaged_when_memory_runs_out(error, path, monkeypatch):
    def load(*_, **__):
        raise error

    path.write_bytes(to_bytes({"w": torch.zeros(2)}))
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(type(error)):
        read_tensors(path)


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def save_with(content, path, pieces):
    """Save in the legacy format, with pieces of the pickle, each there once, replaced by others."""
    torch.save(content, path, _use_new_zipfile_serialization=False)
    pickled = path.read_bytes()
    for old, new in pieces.items():
        assert pickled.count(old) == 1
        pickled = pickled.replace(old, new)
    path.write_bytes(pickled)


def assert_refused(path, *words):
    """As a user's mistake, in one line with the path."""
    with pytest.raises(UserError) as error:
        read_file(path)
    message = str(error.value)
    assert all(word in message for word in (str(path), *words)) and "\n" not in message


# -- numbers of NumPy, as its versions write them, and what passes for one

WRITTEN = b"numpy._core" if b"numpy._core" in pickle.dumps(np.int64(0), protocol=2) else b"numpy.core"
FALSE_TRUE, ZERO_ONE = b"\x89\x88\x87", b"K\x00K\x01\x87"  # arguments of numpy.dtype
NUMPYS = {
    "NumPy 1.16": {WRITTEN: b"numpy.core", FALSE_TRUE: ZERO_ONE},
    "NumPy 1": {WRITTEN: b"numpy.core"},
    "NumPy 2": {WRITTEN: b"numpy._core"},
}


@pytest.mark.parametrize("value", [np.int32(-2), np.int64(2**40), np.float32(0.5), np.float64(0.1)], ids=repr)
@pytest.mark.parametrize("numpy", NUMPYS)
def test_a_number_of_any_numpy_is_read_as_a_plain_one(numpy, value, path):
    save_with({"value": value}, path, NUMPYS[numpy])
    read = read_tensors(path)["value"]
    assert (read, type(read)) == (value.item(), type(value.item()))


PLAIN = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"  # a dtype's state: None, None, None, -1, -1, 0
SHAPE = b"cnumpy\ndtype\n" + text(b"i8") + b"\x89\x88\x87RM\xe8\x03\x85\x86"  # (dtype("i8"), (1000,))
ABUSES = {
    "a dtype of objects": {text(b"i8"): text(b"O8")},
    "raw memory": {text(b"i8"): text(b"V8")},
    "too few bytes": {text(b"\x07" + bytes(7)): text(bytes(7))},
    "a claim to be an array": {PLAIN: SHAPE + PLAIN[2:]},
    "a claim to be a pointer": {PLAIN: PLAIN[:-1] + b"\x04"},
    "another function": {b"multiarray\nscalar\n": b"multiarray\nfrombuffer\n"},
}


@pytest.mark.parametrize("abuse", ABUSES)
def test_a_number_that_claims_to_be_more_is_refused(abuse, path):
    save_with({"weight": torch.ones(3), "head": np.int64(7)}, path, ABUSES[abuse])
    assert_refused(path)


@pytest.mark.parametrize("what", [np.ones(1), np.str_("a"), argparse.Namespace(lr=0.1)], ids=type)
def test_objects_of_other_programs_are_refused_without_a_warning_of_pytorch(what, path, recwarn):
    torch.save({"weight": torch.ones(3), "args": what}, path)
    assert_refused(path)
    path.write_bytes(pickle.dumps(what, protocol=4))
    assert_refused(path)
    assert not recwarn.list


class MakesFolder:
    """Unpickling one makes the folder `name`."""

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return os.mkdir, (self.name,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip format", "legacy format"])
def test_code_in_a_file_is_refused_and_never_run(zipped, path, tmp_path):
    marker = tmp_path / "it ran"
    torch.save({"code": MakesFolder(marker)}, path, _use_new_zipfile_serialization=zipped)
    assert_refused(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file is harmless, so the test shows nothing"


def test_what_was_saved_on_a_gpu_is_read_onto_the_cpu(path):
    save_with({"weight": torch.ones(3)}, path, {text(b"cpu"): text(b"cuda:0")})
    weight = read_tensors(path)["weight"]
    assert weight.device.type == "cpu" and weight.tolist() == [1, 1, 1]


def test_equal_content_gives_equal_bytes():
    first, second = ({"weight": torch.ones(3), "epoch": 2} for _ in range(2))
    assert to_bytes(first) == to_bytes(second)


def test_a_file_that_does_not_fit_its_manifest_is_refused(path):
    save_with_manifest(path, to_bytes({"weight": torch.ones(3)}), {})
    assert read_file(path)["weight"].tolist() == [1, 1, 1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match=path.name):
        read_file(path)


@pytest.mark.parametrize("zipped, size", [(True, 0), (True, 2000), (False, 2000), (False, 10)])
def test_a_file_that_is_cut_off_is_named_with_its_size(zipped, size, path):
    torch.save({"weight": torch.zeros(1000)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:size])
    assert_refused(path, f"({size} bytes)")


def test_a_missing_file_and_one_without_names_are_refused(path):
    assert_refused(path, "not found")
    torch.save(torch.zeros(3), path)
    assert_refused(path, "model.pth.tar")
