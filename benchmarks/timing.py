"""The clock of the benchmarks."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.pool import Pool

import torch


def seconds(act: Callable[[], object], device: str | torch.device = "cpu") -> float:
    """Process time on the CPU; on a GPU wall time until it has done all."""
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
    """What each returns, by name, one after the other in each round; a first round is to warm up."""
    found = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            value = turn()
            found[name] += [value] if number else []
    return found


@contextmanager
def process_apart() -> Iterator[Pool]:
    """A process of its own to `apply` functions in, on one thread, with none of this one's memory."""
    with multiprocessing.get_context("spawn").Pool(1, torch.set_num_threads, (1,)) as pool:
        yield pool
        pool.close()
        pool.join()  # it ends by itself, not by a signal
