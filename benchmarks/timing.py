"""Clocks and processes of the benchmarks."""

import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.pool import Pool

import torch

from utils.device import choose_device, keep_freed_memory


def prepare(device: str) -> torch.device:
    """One thread, and the device as a run of a stage sets it up."""
    torch.set_num_threads(1)
    if device == "cpu":
        keep_freed_memory()
    return choose_device(device)


def seconds(act: Callable[[], object], device: str | torch.device = "cpu") -> float:
    """Process time on a CPU; on a GPU wall time until the device has finished."""
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
    clock = time.perf_counter if on_gpu else time.process_time
    start = clock()
    act()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start


def in_turns(turns: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each turn returns, by name. Each round takes every turn once; a first round warms up and is
    dropped."""
    found = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            value = turn()
            found[name] += [value] if number else []
    return found


def peak_memory() -> float:
    """Peak memory of this process in GB. A new process counts on from the peak of its parent."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the parent ends this one


@contextmanager
def process_apart(threads: int = 1) -> Iterator[Pool]:
    """A separate process to `apply` functions in."""
    with multiprocessing.get_context("spawn").Pool(1, _begin, (threads,)) as pool:
        yield pool
        pool.close()
        pool.join()  # it ends by itself, not by a signal


def alone(function: Callable, *arguments):
    """Call a function in a new process, so that the memory of one call does not count for the next."""
    with process_apart(torch.get_num_threads()) as apart:
        return apart.apply(function, arguments)
