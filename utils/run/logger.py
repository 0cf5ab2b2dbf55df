"""The log of a run: console, `log.jsonl` and, where it is installed, TensorBoard."""

import json
import secrets
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from utils.console import finite, print_metrics, readable_number, say, styled
from utils.distributed import main_only
from utils.errors import attempt
from utils.storage.files import storage_errors


class Logger:
    """`epoch` logs an epoch's metrics, `final` those of the finished stage, `note` and `warn` sentences.

    log.jsonl is opened at the first line that is logged, TensorBoard's file at the first epoch."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "log.jsonl"
        self.new_writer = self.writer = None  # TensorBoard's

    @main_only
    def find_tensorboard(self) -> None:
        """Before training: use TensorBoard where it is installed."""
        self.new_writer = self._tried(lambda: import_module("torch.utils.tensorboard").SummaryWriter)

    def _to_tensorboard(self, epoch: int, metrics: dict[str, float]) -> None:
        unique = f".{secrets.token_hex(4)}"  # time, host and process, which it adds itself, may be equal
        self.writer = self.writer or self.new_writer(str(self.folder / "tensorboard"), filename_suffix=unique)
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def _tried(self, use: Callable) -> Any:
        """What `use()` returns. A broken TensorBoard costs a note and is not used again; never the run."""
        result, fault = attempt(use, "tensorboard")
        if fault:
            self.new_writer = None
            self.note(f"TensorBoard does not work here ({fault}); log.jsonl has it all")
        return result

    def heading(self, text: str) -> None:
        say(styled(text, "blue", attrs=["bold"]))

    def note(self, text: str, **values: int) -> None:
        say(text)
        self._append({"note": text, **values})

    def warn(self, text: str) -> None:
        say(styled(f"warning: {text}", "yellow"))
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
        heading = styled(f"epoch {epoch:3d}", attrs=["bold"])
        say(f"{heading}  {(chr(10) + ' ' * 11).join(lines)}  {remark}")
        self._append({"epoch": epoch, **metrics})
        if self.new_writer:
            self._tried(lambda: self._to_tensorboard(epoch, metrics))

    def final(self, title: str, metrics: dict) -> None:
        if metrics := finite(metrics):
            print_metrics(title, metrics)
            self._append({"final": title, **metrics})

    @main_only
    def _append(self, entry: dict) -> None:
        with storage_errors(self.path), open(self.path, "ab+") as file:
            if file.seek(0, 2) > 0:
                file.seek(-1, 2)
                file.write(b"\n" * (file.read(1) != b"\n"))  # a full disk had cut the last line off
            file.write(json.dumps(entry).encode() + b"\n")
