"""Functions run on several processes that work together, as torchrun starts them."""

import multiprocessing
import os
import socket
import traceback

from utils import distributed

# It has imported everything and trained nothing: autograd does not work in the fork of a process that did.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.small_runs"])
LONGEST = 60  # seconds


def on_processes(number, function, *arguments):
    """What function(*arguments) returns on each of `number` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results, processes = SERVER.Queue(), []
    for rank in range(number):
        names = {"RANK": rank, "WORLD_SIZE": number, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        names |= {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": number}
        processes.append(SERVER.Process(target=_work, args=(results, names, function, arguments)))
        processes[-1].start()
    found = dict(results.get(timeout=LONGEST) for _ in processes)
    for process in processes:
        process.join(LONGEST)
    for each in found.values():
        if isinstance(each, str) and each.startswith("Traceback"):
            raise AssertionError(each)
    return [found[rank] for rank in range(number)]


def _work(results, names, function, arguments):
    os.environ.update({name: str(value) for name, value in names.items()})
    try:
        with distributed.started():
            value = function(*arguments)
    except Exception:
        value = traceback.format_exc()
    results.put((names["RANK"], value))
