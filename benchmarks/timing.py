"""The clock of the benchmarks."""

import multiprocessing
import signal
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


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C goes to both processes: the parent answers, and ends this one


@contextmanager
def process_apart(threads: int = 1) -> Iterator[Pool]:
    """A process of its own to `apply` functions in. It has none of this one's memory, but counts on from its peak."""
    with multiprocessing.get_context("spawn").Pool(1, _begin, (threads,)) as pool:
        yield pool
        pool.close()
        pool.join()  # it ends by itself, not by a signal
