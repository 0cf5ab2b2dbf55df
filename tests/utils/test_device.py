from pathlib import Path

import pytest
import torch

import utils.device
from utils.device import choose_device, float32_precision, free_memory, keep_freed_memory, lack_of_memory
from utils.errors import UserError


@pytest.mark.parametrize(
    "name, has_cuda, expected",
    [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_the_device_is_the_one_named_and_auto_is_cuda_where_there_is_one(
    name, has_cuda, expected, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    assert choose_device(name) == torch.device(expected)
    assert torch.backends.cudnn.benchmark is (expected == "cuda")


def test_cuda_without_a_device_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device=cpu"):
        choose_device("cuda")


@pytest.mark.parametrize("works", [True, False])
def test_mps_is_taken_where_it_can_do_what_is_needed_else_refused_with_the_remedy(works, monkeypatch):
    """What is needed is float64, among others."""
    zeros = torch.zeros

    def probe(*size, device, dtype):
        if not works:
            raise TypeError("no float64 here. Please use float32")
        assert (device, dtype) == ("mps", torch.float64)
        return zeros(*size)

    monkeypatch.setattr(torch, "zeros", probe)
    if works:
        assert choose_device("mps") == torch.device("mps")
    else:
        with pytest.raises(UserError, match=r"mps.*no float64 here.*device=cpu"):
            choose_device("mps")


def limited(monkeypatch, folder, limit):
    """A machine with 5000 KiB to be had, and a container that uses 900 bytes, 700 of them cached files."""
    (folder / "meminfo").write_text("MemTotal: 9000 kB\nMemFree: 1000 kB\nMemAvailable: 5000 kB\n")
    (folder / "groups").write_text("1:cpu:/\n0::/\n")
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text("900\n")
    (folder / "memory.stat").write_text("anon 150\nfile 750\ninactive_file 600\nactive_file 100\n")
    monkeypatch.setattr(utils.device, "MEMINFO", folder / "meminfo")
    monkeypatch.setattr(utils.device, "GROUPS", folder / "groups")
    monkeypatch.setattr(utils.device, "LIMITS", folder)


@pytest.mark.parametrize(
    "limit, free",
    [(1000, 1000 - 900 + 700), ("max", 5000 * 1024), (10**9, 5000 * 1024), (100, 0)],
    ids=["container", "no limit", "more than the machine has", "above its limit"],
)
def test_memory_is_free_as_far_as_machine_and_container_have_it_cached_files_included(
    limit, free, tmp_path, monkeypatch
):
    limited(monkeypatch, tmp_path, limit)
    assert free_memory() == free


@pytest.mark.parametrize(
    "depth", [0, 1, 2], ids=["the group as seen within a container", "around it", "its own"]
)
@pytest.mark.parametrize("version", [1, 2])
def test_the_limits_of_a_job_and_of_the_groups_around_it_count(version, depth, tmp_path, monkeypatch):
    limited(monkeypatch, tmp_path, "max")
    (tmp_path / "groups").write_text({1: "3:cpu:/\n4:memory:/job/7\n0::/\n", 2: "0::/job/7\n"}[version])
    folder = Path(tmp_path, *["memory"] * (version == 1), *("job", "7")[:depth])
    folder.mkdir(parents=True, exist_ok=True)
    names, prefix = {1: (("limit_in_bytes", "usage_in_bytes"), "total_"), 2: (("max", "current"), "")}[
        version
    ]
    for name, value in zip(names, (1000, 900), strict=True):
        (folder / f"memory.{name}").write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"{prefix}active_file 100\n{prefix}inactive_file 600\n")
    assert free_memory() == 1000 - 900 + 700


def test_where_nothing_says_what_is_free_4_gib_are(tmp_path, monkeypatch):
    monkeypatch.setattr(utils.device, "MEMINFO", tmp_path / "gone")
    monkeypatch.setattr(utils.device, "LIMITS", tmp_path)
    assert free_memory() == 2**32


MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1


@pytest.mark.parametrize(
    "refused, calls", [(None, [MMAP_THRESHOLD, TRIM_THRESHOLD]), (MMAP_THRESHOLD, [MMAP_THRESHOLD])]
)
def test_freed_memory_is_kept_where_glibc_takes_both_settings_else_nothing_is_changed(
    monkeypatch, refused, calls
):
    made = []

    class Glibc:
        def mallopt(self, parameter, value):
            made.append(parameter)
            return int(parameter != refused)  # 1 for what it takes

    monkeypatch.setattr(utils.device.ctypes, "CDLL", lambda _: Glibc())
    assert (keep_freed_memory(), made) == (refused is None, calls)


def test_another_c_library_keeps_its_ways(monkeypatch):
    monkeypatch.setattr(utils.device.ctypes, "CDLL", lambda _: object())
    assert not keep_freed_memory()


def test_an_error_of_another_kind_is_no_lack_of_memory():
    assert lack_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) == ""
    assert lack_of_memory(ValueError("CUDA out of memory")) == ""


BACKENDS = torch.backends
PARTS = {
    "all": BACKENDS,
    "products on a GPU": BACKENDS.cuda.matmul,
    "cuDNN": BACKENDS.cudnn,
    "products on the CPU": getattr(BACKENDS.mkldnn, "matmul", None),
}
needs_new_settings = pytest.mark.skipif(not hasattr(BACKENDS, "fp32_precision"), reason="PyTorch is too old")


@pytest.fixture
def put_back():
    with float32_precision("fp32"):
        yield


@needs_new_settings
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_float32_is_as_asked_for_whatever_was_set_in_pytorchs_new_way_which_comes_back(
    part, precision, put_back
):
    part, fast = PARTS[part], precision == "tf32"
    before, part.fp32_precision = part.fp32_precision, "tf32"
    try:
        with float32_precision(precision):
            assert (BACKENDS.cuda.matmul.allow_tf32, BACKENDS.cudnn.allow_tf32) == (fast, fast)
            assert BACKENDS.mkldnn.matmul.fp32_precision == BACKENDS.mkldnn.conv.fp32_precision == "ieee"
        assert part.fp32_precision == "tf32"
    finally:
        part.fp32_precision = before


@needs_new_settings
@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_float32_on_the_cpu_is_in_full_whatever_was_set_in_the_old_way_which_comes_back(before, put_back):
    torch.set_float32_matmul_precision(before)  # medium: bfloat16
    with float32_precision("fp32"):
        assert BACKENDS.mkldnn.matmul.fp32_precision == "ieee"
    assert torch.get_float32_matmul_precision() == before
