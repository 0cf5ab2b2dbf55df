"""What is printed is no part of a result: whatever becomes of the console, the program goes on."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tqdm import tqdm

from utils.console import in_terminal, print_metrics, progress, say, styled

ROOT = Path(__file__).parents[2]


class Broken(io.StringIO):
    """A terminal that is gone, or a file on a full disk."""

    def write(self, text):
        raise OSError(5, "Input/output error")


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


STREAMS = pytest.mark.parametrize("stream", [None, Broken, closed], ids=["none", "broken", "closed"])


@STREAMS
def test_what_cannot_be_printed_is_dropped(stream, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream and stream())
    say(styled("epoch 1", "blue"))
    print_metrics("results", {"ACC": 0.5})


@STREAMS
def test_without_a_terminal_there_is_no_bar(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream and stream())
    assert not in_terminal()
    assert list(progress("ab")) == ["a", "b"]
    with progress(total=2, desc="epoch 1") as bar:
        bar.update(2)
        bar.set_postfix(loss="0.5")


def test_a_bar_starts_no_thread_and_the_bars_of_others_stay_as_they_are(monkeypatch):
    monkeypatch.setattr("utils.console.in_terminal", lambda: True)
    before = threading.active_count()
    with progress(total=1, file=io.StringIO()):
        assert threading.active_count() == before and tqdm.monitor_interval > 0


@pytest.mark.parametrize(
    "encoding, shown", [("utf-8", "\\udcffé"), ("ascii", "\\udcff\\xe9"), ("latin-1", "\\udcffé")]
)
def test_what_the_console_cannot_show_is_escaped(encoding, shown, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding, errors="strict"))
    say(os.fsdecode(b"\xff") + "é")
    assert written.getvalue() == f"{shown}\n".encode(encoding)


PROGRAM = """
import sys
from utils.console import any_console, say
with any_console():
    say("one line" + 9999 * ".")
    with open(sys.argv[1], "w") as file:
        say("another")
        file.write(str(file.fileno()))
sys.exit(7)
"""
CONSOLES = [">&-", ">&- 2>&-", "<&- >&- 2>&-", "> /dev/full", "2> /dev/full", "| true"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("console", CONSOLES)
def test_a_process_ends_with_its_own_code_and_its_files_are_no_console(console, tmp_path):
    line = f'("$@"; echo $? > {tmp_path}/code) {console}'
    words = [sys.executable, "-c", PROGRAM, tmp_path / "file"]
    done = subprocess.run(["sh", "-c", line, "sh", *words], cwd=ROOT, capture_output=True, text=True)
    assert (tmp_path / "code").read_text() == "7\n" and done.stderr == ""
    assert int((tmp_path / "file").read_text()) > 2
