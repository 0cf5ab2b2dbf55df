"""The log of a run: console, `log.jsonl` and, where it is installed, TensorBoard."""

import json
from functools import cached_property
from pathlib import Path

from termcolor import colored
from tqdm import tqdm

from utils.arrays import finite
from utils.console import print_metrics, readable_number
from utils.storage.files import storage_errors


class Logger:
    """`epoch` logs an epoch's metrics, `final` those of the finished stage, `note` and `warn` sentences.

    Files are opened at the first line that is logged."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "log.jsonl"

    @cached_property
    def tensorboard(self):
        """TensorBoard's writer. None where it is not installed, or broken in any way."""
        try:
            from torch.utils.tensorboard import SummaryWriter

            return SummaryWriter(str(self.folder / "tensorboard"))
        except ImportError:
            return None
        except Exception as error:
            kind = type(error).__name__
            self.note(f"TensorBoard does not work here ({kind}: {error}); log.jsonl has it all")
            return None

    def heading(self, text: str) -> None:
        tqdm.write(colored(text, "blue", attrs=["bold"]))

    def note(self, text: str) -> None:
        tqdm.write(text)
        self._append({"note": text})

    def warn(self, text: str) -> None:
        tqdm.write(colored(f"warning: {text}", "yellow"))
        self._append({"warning": text})

    def epoch(self, epoch: int, metrics: dict[str, float], remark: str = "") -> None:
        """Metrics are named `<split>/<name>`: one console line a split. `remark` is for the console alone.

        Those that could not be computed are left out, here and in `final`."""
        metrics = finite(metrics)
        splits: dict[str, list[str]] = {}
        for name, value in metrics.items():
            split, _, short = name.partition("/")
            splits.setdefault(split, []).append(f"{short} {readable_number(value)}")
        lines = [f"{split:<5}  {'  '.join(values)}" for split, values in splits.items()]
        heading = colored(f"epoch {epoch:3d}", attrs=["bold"])
        tqdm.write(f"{heading}  {(chr(10) + ' ' * 11).join(lines)}  {remark}")
        self._append({"epoch": epoch, **metrics})
        with storage_errors(self.folder / "tensorboard"):
            if self.tensorboard:
                for name, value in metrics.items():
                    self.tensorboard.add_scalar(name, value, epoch)
                self.tensorboard.flush()

    def final(self, title: str, metrics: dict) -> None:
        if metrics := finite(metrics):
            print_metrics(title, metrics)
            self._append({"final": title, **metrics})

    def _append(self, entry: dict) -> None:
        with storage_errors(self.path), open(self.path, "ab+") as file:
            if file.seek(0, 2) > 0:
                file.seek(-1, 2)
                file.write(b"\n" * (file.read(1) != b"\n"))  # a full disk had cut the last line off
            file.write(json.dumps(entry).encode() + b"\n")
