"""The clock of the benchmarks."""

import time
from collections.abc import Callable

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
