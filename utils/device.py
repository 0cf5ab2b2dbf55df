"""Where a script computes."""

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from utils import distributed
from utils.errors import UserError, attempt

MEMINFO, GROUPS, LIMITS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
LIMIT_FILES = {  # of both versions of cgroups: limit, use, and what its cached files are named by
    "": ("memory.max", "memory.current", ""),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
}


def cpu_count() -> int:
    """How many CPUs this process may use: its share of the machine's, or all while the others wait."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, count // min(distributed.world_size(), distributed.local_world_size()))


def free_memory() -> int:
    """Bytes of host memory that this process can still have, by the system and by the limits of a container
    or a job; 4 GiB where none says. The system's cache of files counts as free."""
    free = []
    with suppress(OSError, IndexError, ValueError):  # Linux
        lines = MEMINFO.read_text().splitlines()
        free += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError):
        for _, kind, group in (line.split(":", 2) for line in GROUPS.read_text().splitlines()):
            names = Path(group).parts[1:]
            folders = [Path(LIMITS, kind, *names[:depth]) for depth in range(len(names) + 1)]
            free += [left for folder in folders for left in _below_limit(folder, *LIMIT_FILES.get(kind, ()))]
    return max(0, min(free, default=4 * 2**30)) // distributed.local_world_size()


def _below_limit(folder: Path, *names: str) -> list[int]:
    """[bytes that the limit of a cgroup leaves], [] for one without limit. names: of LIMIT_FILES."""
    with suppress(OSError, ValueError):  # "max" is no limit
        *files, prefix = names
        limit, used = (int((folder / name).read_text()) for name in files)
        usage = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cached = (usage.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
        return [limit - used + sum(map(int, cached))]
    return []


def keep_freed_memory() -> bool:
    """Have glibc keep memory that this process frees, for the next batch; returns whether it does.

    It works on the whole process. Otherwise the system maps memory anew page by page, which takes as long as
    most image operations. Older glibc refuses the first setting, and nothing changes."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    mmap_threshold, trim_threshold = -3, -1
    size = 2**28  # bytes; keeping larger blocks leaves holes: 24 GB where 18 are needed
    return bool(mallopt(mmap_threshold, size) and mallopt(trim_threshold, size))


def return_freed_memory() -> None:
    """Have glibc give back what threads have freed: each keeps its own, which no other thread uses."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA if there is a device, else the CPU. Raises UserError for `cuda` and `mps` that cannot
    compute here; float64, which averages and random transforms need, is what MPS lacks so far."""
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise UserError("device is cuda, but PyTorch sees no CUDA device: use device=auto or device=cpu")
    if name == "mps":
        _, fault = attempt(lambda: torch.zeros(1, dtype=torch.float64, device=name), "")
        if fault:
            raise UserError(
                f"device is mps, which cannot do what is needed ({fault.partition('. ')[0]}): use device=cpu"
            )
    if name == "auto":
        name = "cuda" if has_cuda else "cpu"
    gpus, processes = torch.cuda.device_count(), distributed.local_world_size()
    if name == "cuda" and processes > max(1, gpus):
        raise UserError(f"{processes} processes on this machine are more than its {gpus} GPUs: start {gpus}")
    if name == "cuda":
        torch.backends.cudnn.benchmark = True  # try which convolutions are fastest for each new size
    return torch.device(name)


@contextmanager
def float32_precision(precision: str) -> Iterator[None]:
    """In the block float32 is computed in full, or on a GPU in TF32 if `precision` is tf32.

    What was set before comes back, in PyTorch's old way or, from 2.9 on, its new one; old settings cannot be
    read beside new ones."""
    matmul, cudnn, cpu = torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.mkldnn
    old_matmul, _ = attempt(torch.get_float32_matmul_precision, "")
    old_cudnn, _ = attempt(lambda: cudnn.allow_tf32, "")
    of_gpu, of_cpu = [], []
    if hasattr(torch.backends, "fp32_precision"):
        of_gpu, of_cpu = [matmul, cudnn.conv, cudnn.rnn], [cpu.matmul, cpu.conv, cpu.rnn]
    new = [(part, part.fp32_precision) for part in (*of_gpu, *of_cpu)]
    torch.set_float32_matmul_precision("highest")  # of the CPU too
    matmul.allow_tf32 = cudnn.allow_tf32 = fast = precision == "tf32"
    for part, _ in new:
        part.fp32_precision = "tf32" if fast and part in of_gpu else "ieee"
    try:
        yield
    finally:
        if old_matmul is not None:
            torch.set_float32_matmul_precision(old_matmul)
        if old_cudnn is not None:
            cudnn.allow_tf32 = old_cudnn
        for part, value in new:
            part.fp32_precision = value


@contextmanager
def own_torch() -> Iterator[None]:
    """In the block PyTorch is as it starts, whatever a notebook has set: gradients, float32 computed in full,
    new tensors on the CPU. Settings and random numbers come back."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    try:
        with torch.enable_grad(), torch.random.fork_rng([]), float32_precision("fp32"):
            yield
    finally:
        torch.set_default_dtype(dtype)
        if device.type != "cpu":  # a default that is set costs time, even the CPU
            torch.set_default_device(device)


@contextmanager
def full_precision() -> Iterator[None]:
    """In the block float32 is computed in full: no TF32, no autocast."""
    off = {"enabled": False}
    with float32_precision("fp32"), torch.autocast("cpu", **off), torch.autocast("cuda", **off):
        yield


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """A context in which networks compute in bfloat16, if `precision` is bf16."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def lack_of_memory(error: BaseException) -> str:
    """What an error says of memory that could not be had, "" for an error of another kind."""
    text = " ".join(str(error).split())
    known = re.search("DefaultCPUAllocator|CUDA.*out of memory|ALLOC_FAILED|alloc fail", text)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or (known and isinstance(error, RuntimeError)):
        return text[known.start() if known else 0 :].partition(". ")[0] or "none left"
    return ""


def near(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device, if they take at most a quarter of its free memory, else where they are."""
    fits = device.type == "cuda" and values.nbytes <= torch.cuda.mem_get_info(device)[0] / 4
    return values.to(device) if fits else values


def sent(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device, which fetches them from pinned memory while the host goes on."""
    if device.type == "cuda" and not values.is_cuda:
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
