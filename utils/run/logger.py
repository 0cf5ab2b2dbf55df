"""One logger: console, `log.jsonl` and, where it is installed, TensorBoard."""

import json
from pathlib import Path

from termcolor import colored
from tqdm import tqdm

from utils.console import print_metrics, readable_number
from utils.storage.files import storage_errors

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:  # TensorBoard is welcome, never required
    SummaryWriter = None


class Logger:
    """`epoch` for the numbers of an epoch, `final` for those of the finished stage, `note` and `warn` for sentences."""

    def __init__(self, folder: Path):
        path = folder / "log.jsonl"
        cut_off = path.exists() and not path.read_bytes().endswith(
            b"\n"
        )  # by a full disk, in the middle of a line
        self.jsonl = open(path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115 (open for the run)
        self.jsonl.write("\n" * cut_off)
        self.tensorboard = SummaryWriter(str(folder / "tensorboard")) if SummaryWriter else None

    def heading(self, text: str) -> None:
        tqdm.write(colored(text, "blue", attrs=["bold"]))

    def note(self, text: str) -> None:
        self._write({"note": text}, text)

    def warn(self, text: str) -> None:
        self._write({"warning": text}, colored(f"warning: {text}", "yellow"))

    def epoch(self, epoch: int, metrics: dict[str, float], remark: str = "") -> None:
        """Metrics are named `<split>/<name>`: one console line a split. `remark` is for the console alone."""
        splits: dict[str, list[str]] = {}
        for name, value in metrics.items():
            split, _, short = name.partition("/")
            splits.setdefault(split, []).append(f"{short} {readable_number(value)}")
        lines = [f"{split:<5}  {'  '.join(values)}" for split, values in splits.items()]
        heading = colored(f"epoch {epoch:3d}", attrs=["bold"])
        self._write({"epoch": epoch, **metrics}, f"{heading}  {(chr(10) + ' ' * 11).join(lines)}  {remark}")
        if self.tensorboard:
            for name, value in metrics.items():
                self.tensorboard.add_scalar(name, value, epoch)
            self.tensorboard.flush()

    def final(self, title: str, metrics: dict) -> None:
        print_metrics(title, metrics)
        self._record({"final": title, **metrics})

    def _write(self, record: dict, text: str) -> None:
        tqdm.write(text)
        self._record(record)

    def _record(self, record: dict) -> None:
        with storage_errors(self.jsonl.name):
            self.jsonl.write(json.dumps(record) + "\n")
