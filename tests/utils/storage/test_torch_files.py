"""PyTorch files: what is read, and what is refused without running it. The pickles are written by hand."""

import argparse
import io
import os
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.errors import RunError, UserError
from utils.storage.files import save_with_manifest
from utils.storage.torch_files import read_file, read_tensors, to_bytes

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip format", "legacy format"])
HERE, PICKLED_HERE = 54321, b"M\x31\xd4"  # a number whose pickle is replaced by another piece
LETTERS = {b"i4": "i", b"i8": "q", b"f4": "f", b"f8": "d"}
PLAIN = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"  # None, None, None, -1, -1, 0: a plain number
FALSE_TRUE, ZERO_ONE = b"\x89\x88", b"K\x00K\x01"
NUMPYS = {"NumPy 1.16": (b"numpy.core", ZERO_ONE), "NumPy 1": (b"numpy.core", FALSE_TRUE)}
NUMPYS |= {"NumPy 2": (b"numpy._core", FALSE_TRUE)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pth.tar"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def dtype(kind, flags=FALSE_TRUE):
    """numpy.dtype(kind, False, True)"""
    return b"cnumpy\ndtype\n" + text(kind) + flags + b"\x87R"


def scalar(dtype, content, package=b"numpy._core"):
    """numpy.core.multiarray.scalar(dtype, content)"""
    encoded = b"c_codecs\nencode\n" + text(content.decode("latin1").encode()) + text(b"latin1") + b"\x86R"
    return b"c" + package + b".multiarray\nscalar\n" + dtype + encoded + b"\x86R"


def number(value, kind, package=b"numpy._core", flags=FALSE_TRUE, order=b"<", state=PLAIN):
    """The dtype gets the state (3, order, *state)."""
    described = dtype(kind, flags) + b"(K\x03" + text(order) + state + b"tb"
    return scalar(described, struct.pack(order.decode() + LETTERS[kind], value), package)


def save_with(content, path, zipped, old, new):
    """Save with one piece of the pickle replaced by another."""

    def replaced(pickled):
        assert pickled.count(old) == 1
        return pickled.replace(old, new)

    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if not zipped:
        path.write_bytes(replaced(path.read_bytes()))
        return
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, replaced(part) if name.endswith("/data.pkl") else part)


def assert_refused(path, *words):
    """As a user's mistake, in one line with the path."""
    with pytest.raises(UserError) as error:
        read_file(path)
    message = str(error.value)
    assert all(word in message for word in (str(path), *words)) and "\n" not in message


# -- numbers of NumPy


@pytest.mark.parametrize("value", [np.int32(2), np.int64(-3), np.float32(0.5), np.float64(-1.5)], ids=repr)
def test_the_numbers_by_hand_are_those_that_numpy_writes(value):
    package = b"numpy._core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else b"numpy.core"
    by_hand = number(value.item(), value.dtype.str[1:].encode(), package)
    assert pickletools.optimize(pickle.dumps(value, protocol=2)) == b"\x80\x02" + by_hand + b"."


@FORMATS
@pytest.mark.parametrize("kind, value", [(b"i4", -2), (b"i8", 2**40), (b"f4", 0.75), (b"f8", 0.1)])
@pytest.mark.parametrize("order", [b"<", b">"])
@pytest.mark.parametrize("numpy", NUMPYS)
def test_a_number_of_any_numpy_is_read_as_a_plain_one(numpy, order, kind, value, zipped, path):
    save_with({"value": HERE}, path, zipped, PICKLED_HERE, number(value, kind, *NUMPYS[numpy], order))
    read = read_tensors(path)["value"]
    assert (read, type(read)) == (value, type(value))


NDARRAY = b".multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
LIKE_AN_ARRAY = dtype(b"i8") + b"M\xe8\x03\x85\x86NNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"
ABUSES = {
    "a dtype of objects": dtype(b"O8"),
    "an object": scalar(dtype(b"O8"), b""),
    "raw memory": scalar(dtype(b"V8"), b"8 bytes."),
    "a date": scalar(dtype(b"M8"), bytes(8)),
    "a record": scalar(b"cnumpy\ndtype\n]" + text(b"x") + dtype(b"i8") + b"\x86a\x85R", bytes(8)),
    "an integer of too few bytes": number(0, b"i8").replace(text(bytes(8)), text(bytes(7))),
    "an integer that claims to be an array": number(0, b"i8", state=LIKE_AN_ARRAY),
    "an integer that claims to be a pointer": number(0, b"i8", state=PLAIN[:-1] + b"\x04"),
    "a dtype's class": b"cnumpy.dtypes\nInt64DType\n)R",
    "an array": b"cnumpy._core" + NDARRAY,
    "an array of NumPy 1": b"cnumpy.core" + NDARRAY,
    "another function": b"cnumpy._core.multiarray\nfrombuffer\n" + text(b"i8") + b"\x85R",
}


@FORMATS
@pytest.mark.parametrize("abuse", ABUSES)
def test_of_numpy_only_four_kinds_of_numbers_are_read(abuse, path, zipped):
    pickletools.dis(b"\x80\x02" + ABUSES[abuse] + b".", io.StringIO())  # raises if it is no pickle at all
    save_with({"weight": torch.ones(3), "head": HERE}, path, zipped, PICKLED_HERE, ABUSES[abuse])
    assert_refused(path)


@pytest.mark.parametrize(
    "what",
    [np.array([1.0]), np.str_("text"), argparse.Namespace(lr=0.1)],
    ids=lambda what: type(what).__name__,
)
def test_objects_of_other_programs_are_refused(what, path):
    torch.save({"weight": torch.ones(3), "args": what}, path)
    assert_refused(path)


# -- code in a file


class Calls:
    """Unpickling one calls a function."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        function, *arguments = self.call
        return function, tuple(arguments)


class SetsState:
    """Unpickling one runs a method of its class."""

    def __init__(self, marker):
        self.marker = marker

    def __setstate__(self, state):
        state["marker"].touch()


CODE = {  # unpickling it makes the file `marker`
    "method": lambda marker: Calls(Path.touch, marker),
    "shell": lambda marker: Calls(os.system, f"touch '{marker}'"),
    "state of a class": SetsState,
}


@FORMATS
@pytest.mark.parametrize("code", CODE)
def test_code_in_a_file_is_refused_and_never_run(code, zipped, path, tmp_path):
    marker = tmp_path / "it ran"
    torch.save({"code": CODE[code](marker)}, path, _use_new_zipfile_serialization=zipped)
    assert_refused(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file is harmless, so the test shows nothing"


# -- whole files, damaged files


@FORMATS
def test_what_was_saved_on_a_gpu_is_read_onto_the_cpu(path, zipped):
    save_with({"weight": torch.ones(3)}, path, zipped, text(b"cpu"), text(b"cuda:0"))
    weight = read_tensors(path)["weight"]
    assert weight.device.type == "cpu" and weight.tolist() == [1, 1, 1]


def test_equal_content_gives_equal_bytes():
    first, second = ({"weight": torch.ones(3), "epoch": 2} for _ in range(2))
    assert to_bytes(first) == to_bytes(second)


def test_a_missing_file_is_named(path):
    assert_refused(path, "not found")


def test_a_file_that_does_not_fit_its_manifest_is_refused(path):
    save_with_manifest(path, to_bytes({"weight": torch.ones(3)}), {})
    assert read_file(path)["weight"].tolist() == [1, 1, 1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match=path.name):
        read_file(path)


SPOILED = {
    "zero bytes": (True, 0),
    "half of a zip file": (True, 2000),
    "half of a legacy file": (False, 2000),
    "the first bytes of a legacy file": (False, 10),
}


@pytest.mark.parametrize("zipped, size", SPOILED.values(), ids=SPOILED)
def test_a_file_that_is_cut_off_is_named_with_its_size(zipped, size, path):
    torch.save({"weight": torch.zeros(1000)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:size])
    assert_refused(path, f"({size} bytes)")


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2]], ids=["tensor", "list"])
def test_a_file_without_names_is_refused(content, path):
    torch.save(content, path)
    assert_refused(path, "model.pth.tar")
