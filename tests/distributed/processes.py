"""Functions run on several processes that work together, as torchrun starts them."""

import multiprocessing
import os
import socket
import traceback

import torch

from utils import distributed

# It has imported everything and trained nothing: autograd does not work in the fork of a process that did.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.distributed.stages"])
LONGEST = 100  # seconds


def on_processes(number, function, *arguments):
    """What function(*arguments) returns on each of `number` processes, by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results, processes = SERVER.Queue(), []
    for rank in range(number):
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes.append(SERVER.Process(target=_work, args=(results, own, function, arguments)))
        processes[-1].start()
    found = dict(results.get(timeout=LONGEST) for _ in processes)
    for process in processes:
        process.join(LONGEST)
    for fault in (each for each in found.values() if isinstance(each, Fault)):
        raise AssertionError(fault)
    return [found[rank] for rank in range(number)]


class Fault(str):
    """The traceback of a process."""


def _work(results, own, function, arguments):
    os.environ.update({name: str(value) for name, value in own.items()})
    torch.set_num_threads(1)
    try:
        with distributed.started():
            value = function(*arguments)
    except BaseException:
        value = Fault(traceback.format_exc())
    results.put((own["RANK"], value))
