"""Where a script computes."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from utils.errors import UserError

MEMINFO, CONTAINER = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def cpu_count() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes of host memory that can still be had, by the system and by the limit of a container; 4 GiB where neither
    says. Files that the system keeps in memory until another wants it count as free."""
    free = []
    with suppress(OSError, IndexError, ValueError):  # Linux
        lines = MEMINFO.read_text().splitlines()
        free += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):  # a container of Linux; "max" is no limit
        limit, used = (int((CONTAINER / name).read_text()) for name in ("memory.max", "memory.current"))
        facts = dict(line.split() for line in (CONTAINER / "memory.stat").read_text().splitlines())
        free.append(limit - used + sum(int(facts.get(name, 0)) for name in ("active_file", "inactive_file")))
    return max(0, min(free, default=4 * 2**30))


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next batch. Otherwise the system takes it back and hands it out anew page
    by page, which takes as long as most image operations on it."""
    with suppress(OSError, AttributeError):  # another C library
        glibc = ctypes.CDLL("libc.so.6")
        for parameter in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            glibc.mallopt(
                parameter, 2**28
            )  # larger blocks, kept, would leave holes: 24 GB where 18 are needed


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. Prepares it: a GPU is to try which of its convolutions are the
    fastest for each new size, a CPU to keep memory from batch to batch."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device: cuda was asked for, but PyTorch sees no CUDA device: use device=auto or device=cpu"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        keep_freed_memory()
    else:
        torch.backends.cudnn.benchmark = True
    return torch.device(name)


def near(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device, if they take at most a quarter of its free memory, else where they are."""
    fits = device.type == "cuda" and values.nbytes <= torch.cuda.mem_get_info(device)[0] / 4
    return values.to(device) if fits else values


def sent(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device. The host does not wait until they are there: from pinned memory the device fetches them
    itself."""
    if device.type == "cuda" and not values.is_cuda:
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
