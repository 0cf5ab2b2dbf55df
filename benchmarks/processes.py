"""Training on several processes against one, and what the messages between them take.

    OMP_NUM_THREADS=1 torchrun --nproc_per_node=2 benchmarks/processes.py \
        [--recipe digits] [--width 16] [--batch 256] [--rounds 5] [batch_norm=per_process]

Each stage's own `train_epoch` with a recipe's views of random images: on one process while the others wait,
and on all, in turns. Then SimCLR with PyTorch's `DistributedDataParallel` in place of `sum_gradients`: first
that the gradients are equal, in float64, then both in turns. Wall time; medians over the rounds, with lowest
and highest. `in messages` is the share of the main process's time in collectives; it waits there, too."""

import sys
import time
from pathlib import Path

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.epochs import train_steps
from benchmarks.table import Table, parser, ratio, save, spread
from benchmarks.timing import in_turns, prepare
from data.augment import train_transform, val_transform
from data.dataset import ResidentDataset
from data.loader import build_loader
from losses import SimCLRLoss
from models import batch_norm, build_model
from utils import distributed
from utils.config import load_config
from utils.optimizers import build_optimizer

STAGES = {"simclr": "pretext", "scan": "scan", "selflabel": "selflabel"}
SGD = {"lr": 0.01, "weight_decay": 0.0, "momentum": 0.9, "nesterov": False}
STEPS = 8  # in an epoch
in_messages = 0.0  # seconds


class Epoch:
    """A stage's training on the device, by all processes, or by one if it is made in `from_main`."""

    def __init__(self, stage: str, asked, device: torch.device, dtype=torch.float32, *settings: str):
        path = f"configs/{STAGES[stage]}/{stage}_{asked.recipe}.yml"
        small = [f"model_kwargs.width={asked.width}", "num_heads=1"]
        self.cfg = cfg = load_config(None, path, [*small, *asked.overrides, *settings])
        torch.manual_seed(0)
        side = cfg.transformation_kwargs.crop_size
        images = torch.randint(256, (STEPS * asked.batch, 3, side, side), dtype=torch.uint8)
        random = train_transform(cfg)
        views = [val_transform(cfg.transformation_kwargs) if stage == "selflabel" else random, random]
        self.loader = build_loader(ResidentDataset(images, None, []), views, asked.batch, device, train=True)
        self.model = build_model(cfg).to(device, dtype, memory_format=torch.channels_last)
        self.optimizer = build_optimizer("sgd", SGD, self.model.parameters())
        self.device, self.dtype = device, dtype

    def train(self) -> None:
        train_steps(self.cfg, self.model, self.loader, self.optimizer, self.device)

    def simclr_steps(self, model: nn.Module, sum_gradients, steps: int = STEPS) -> None:
        """SimCLR's steps with a model, and with a function for what follows the backward pass."""
        criterion = SimCLRLoss(0.1)
        self.loader.set_epoch(0, STEPS - steps)
        for batch in self.loader:
            features = model(torch.cat(batch.views).to(self.dtype))
            loss = criterion(distributed.gather(torch.stack(features.chunk(2), dim=1)))
            self.optimizer.zero_grad()
            (loss if sum_gradients else loss * distributed.world_size()).backward()  # DDP takes the mean
            if sum_gradients:
                distributed.sum_gradients(self.model.parameters())
            self.optimizer.step()

    def gradients(self) -> torch.Tensor:
        return torch.cat([weight.grad.flatten() for weight in self.model.parameters()])


def timed(collective):
    """A collective that adds its time to `in_messages`."""

    def called(*arguments, **options):
        global in_messages
        start = time.perf_counter()
        try:
            return collective(*arguments, **options)
        finally:
            in_messages += time.perf_counter() - start

    return called


def seconds(act, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def against_one(stage: str, asked, device: torch.device) -> list:
    """A row of the table of stages."""
    images, shares = STEPS * asked.batch, []
    kept = {"all": Epoch(stage, asked, device)}
    distributed.from_main(lambda: kept.update(one=Epoch(stage, asked, device)))

    def on_all() -> float:
        global in_messages
        in_messages = 0.0
        spent = seconds(kept["all"].train, device)
        shares.append(100 * in_messages / spent)
        return spent

    def on_one() -> float:
        return distributed.from_main(lambda: seconds(kept["one"].train, device))

    found = in_turns({"one": on_one, "all": on_all}, asked.rounds)
    rates = [spread([images / each for each in found[name]]) for name in ("one", "all")]
    return [stage, *rates, ratio(found["one"], found["all"]), spread(shares[1:])]


def against_ddp(asked, device: torch.device) -> list:
    """A row of the table of DistributedDataParallel."""

    def both(dtype: torch.dtype) -> tuple[Epoch, Epoch, nn.Module]:
        # Batch norm per process, as DistributedDataParallel refuses ours on CPUs.
        ours, theirs = (Epoch("simclr", asked, device, dtype, "batch_norm=per_process") for _ in range(2))
        return ours, theirs, DistributedDataParallel(theirs.model, broadcast_buffers=False)

    ours, theirs, wrapped = both(torch.float64)
    ours.simclr_steps(ours.model, True, steps=1)
    theirs.simclr_steps(wrapped, False, steps=1)
    difference = (ours.gradients() - theirs.gradients()).abs().max() / ours.gradients().abs().max()
    ours, theirs, wrapped = both(torch.float32)
    turns = {
        "ours": lambda: seconds(lambda: ours.simclr_steps(ours.model, True), device),
        "theirs": lambda: seconds(lambda: theirs.simclr_steps(wrapped, False), device),
    }
    found = in_turns(turns, asked.rounds)
    return [f"{difference:.0e}", ratio(found["theirs"], found["ours"])]


def main(asked) -> None:
    device = prepare(asked.device)
    for module, name in ((dist, "all_reduce"), (batch_norm, "all_of"), (distributed, "all_of")):
        setattr(module, name, timed(getattr(module, name)))
    processes, tables = distributed.world_size(), []
    show = Table if distributed.is_main() else lambda *_: None
    columns = "images/s, one process", f"images/s, {processes}", "times as fast", "in messages, %"
    tables.append(show("stage", *columns))
    for stage in STAGES:
        row = against_one(stage, asked, device)
        if tables[0]:
            tables[0].row(*row)
    tables.append(show("gradients of DDP differ by", "times as fast as DDP"))
    row = against_ddp(asked, device)
    if tables[1]:
        tables[1].row(*row)
        save(asked.json, *tables)


if __name__ == "__main__":
    options = parser(__doc__, device=True)
    options.add_argument("--recipe", default="digits")
    options.add_argument("--width", type=int, default=16)
    options.add_argument("--batch", type=int, default=256)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("overrides", nargs="*", metavar="key=value")
    with distributed.started():
        main(options.parse_args())
