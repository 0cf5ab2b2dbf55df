"""Processes that torchrun started, which compute together what one would. In one process all of this does
nothing.

Each process has some rows of a batch and computes the loss of the whole batch, in which only its own rows
have a gradient. The sum of these gradients over the processes is that of the whole loss."""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import wraps
from typing import Any

import torch
import torch.distributed.nn  # if imported later, it keeps a group, whose threads abort the process at its end
from torch import Tensor, nn
from torch import distributed as dist

LONGEST_WAIT = timedelta(hours=2)  # of one process for another, such as for one that downloads
LONGEST_CALL = timedelta(minutes=1)  # of a process to torchrun, which has started it and so is there
PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when its parent ends

_size = 1  # how many processes there are, from `started` on
_rank = int(os.environ["RANK"]) if int(os.environ.get("WORLD_SIZE", 1)) > 1 else 0  # this one's number
_is_alone = False  # whether this process computes something while the others wait
_speaks = True  # whether it says how the run ended


@contextmanager
def started() -> Iterator[None]:
    """In the block, the processes of one `torchrun` work together: through gloo on CPUs, NCCL on GPUs.

    When torchrun vanishes, they get a SIGTERM."""
    global _rank, _size, _speaks
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    with suppress(OSError, AttributeError):  # other systems have no such call
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    has_gpus = torch.cuda.is_available() and dist.is_nccl_available()
    if has_gpus:
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    store, _rank, _size = next(dist.rendezvous("env://", timeout=LONGEST_CALL))
    # torchrun's store outlives its processes: new ones must not find the addresses of lost ones there.
    store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    backend = "cpu:gloo,cuda:nccl" if has_gpus else "gloo"
    dist.init_process_group(backend, timeout=LONGEST_WAIT, store=store, rank=_rank, world_size=_size)
    try:
        yield
        agree(0)  # a process that left now would be missed by the others
    except Exception:
        _speaks = is_main()
        with suppress(dist.DistError):  # torchrun is gone
            _speaks = store.add("ended", 1) == 1
        if has_gpus:
            dist.distributed_c10d._abort_process_group()  # to destroy it waits for messages of lost processes
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def world_size() -> int:
    """The number of processes that share the work."""
    return 1 if _is_alone else _size


def rank() -> int:
    """The number of this process among those, from 0."""
    return 0 if _is_alone else _rank


def is_shared() -> bool:
    """Whether there are several processes, even while one works and the others wait."""
    return _size > 1


def is_main() -> bool:
    """Whether this is the process that writes and speaks."""
    return _rank == 0


def may_speak() -> bool:
    """Whether this process says with which error the run ended: the first that had one."""
    return _speaks


def local_rank() -> int:
    """The number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """The number of processes of the run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if _size > 1 else 1


def share_of(rows: int, process: int | None = None) -> slice:
    """The share of some rows that a process has, by default this one: 64 on 3 processes are 22, 22 and 20."""
    size, number = -(-rows // world_size()), rank() if process is None else process
    return slice(size * number, size * (number + 1))


# -- what the processes tell each other; each function must be called by all of them, in the same order


def all_of(values: Tensor) -> list[Tensor]:
    """The values of each process, by its number, without gradients; all have one shape.

    On CPUs it asks again and again whether they are there: between steps of work that took half as long as
    to sleep until they come, on the machine of benchmarks/RESULTS.md."""
    parts = [torch.empty_like(values) for _ in range(_size)]
    message = dist.all_gather(parts, values, async_op=True)
    while not (values.is_cuda or message.is_completed()):
        time.sleep(0)  # gloo's threads, and others, may have the core
    message.wait()
    return parts


def gather(values: Tensor, dim: int = 0) -> Tensor:
    """The rows of all processes along `dim`, in the order of the processes. One's own keep their gradient,
    those of others have none. The numbers of rows may differ."""
    if world_size() == 1:
        return values
    own = values.detach().movedim(dim, 0).contiguous()  # (b, ...)
    counts = [int(count) for count in all_of(torch.tensor(len(own)))]
    padded = own.new_zeros(max(counts), *own.shape[1:])
    padded[: len(own)] = own
    parts = [part[:count].movedim(0, dim) for part, count in zip(all_of(padded), counts, strict=True)]
    parts[rank()] = values
    return torch.cat(parts, dim)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give each parameter that has a gradient the sum of those of all processes."""
    if world_size() == 1:
        return
    gradients = [each.grad for each in parameters if each.grad is not None]
    total = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(total)
    sums = total.split([gradient.numel() for gradient in gradients])
    sums = [of_all.view(gradient.shape) for gradient, of_all in zip(gradients, sums, strict=True)]
    torch._foreach_copy_(gradients, sums)  # in place: their memory format is that of the parameters


def share_weights(model: nn.Module) -> None:
    """Give all processes the main one's weights: other processors may draw others from the same seed."""
    if world_size() > 1:
        state = {name: value.cpu() for name, value in model.state_dict().items()}
        model.load_state_dict(from_main(lambda: state))


def share_buffers(model: nn.Module) -> None:
    """Give all processes the main one's buffers: the statistics of a batch norm per process differ."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def agree(number: int) -> int:
    """The largest of the processes' numbers."""
    if world_size() == 1:
        return number
    return max(int(each) for each in all_of(torch.tensor(number)))


def from_main(function: Callable, *arguments, **options) -> Any:
    """What the main process gets from function(*arguments, **options): all get its value, or its error. These
    travel between the processes by pickle."""
    if world_size() == 1:
        return function(*arguments, **options)
    outcome = [_outcome(function, *arguments, **options) if is_main() else None]
    dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
    value, error = outcome[0]
    if error:
        raise error
    return value


def on_main(function: Callable) -> Callable:
    """A decorator: each call is one of the main process, see `from_main`."""

    @wraps(function)
    def called(*arguments, **options):
        return from_main(function, *arguments, **options)

    return called


def main_only(function: Callable) -> Callable:
    """A decorator: other processes than the main one get None at once. For what nobody waits for."""

    @wraps(function)
    def called(*arguments, **options):
        return function(*arguments, **options) if is_main() else None

    return called


def everywhere_equal(value: Any) -> bool:
    """Whether all processes have the same plain value."""
    values = [value] * world_size()
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return all(each == value for each in values)


def first_on_machine(function: Callable) -> Any:
    """function() on every process, on each machine by one of them before the others: these find what it has
    downloaded or cached. An error of one is raised in all."""
    if world_size() == 1:
        return function()
    outcome = None
    for is_turn in (local_rank() == 0, local_rank() != 0):
        outcome = _outcome(function) if is_turn else outcome
        errors = [None] * world_size()
        dist.all_gather_object(errors, outcome and outcome[1])
        for error in filter(None, errors):
            raise error
    return outcome[0]


def _outcome(function: Callable, *arguments, **options) -> tuple[Any, Exception | None]:
    """What a function returns, and None; or None and what it raised. It runs as if this were the only
    process."""
    global _is_alone
    before, _is_alone = _is_alone, True
    try:
        return function(*arguments, **options), None
    except Exception as error:
        return None, error
    finally:
        _is_alone = before


def lost_process(error: BaseException) -> str:
    """What to say of an error that another process of the run has ended; "" for other errors."""
    text = " ".join(str(error).split())
    if _size == 1 or not (isinstance(error, dist.DistError) or "gloo" in text):
        return ""
    reason = (text.partition("] ")[2] or text).partition(". ")[0][:200]
    return f"another process of this run has ended or does not answer ({reason}); what was saved is whole"
