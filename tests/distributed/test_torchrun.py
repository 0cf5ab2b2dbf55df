"""Runs under torchrun that are stopped or killed: all processes end soon, say so once, and can go on."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.small_runs import same_weights, weights
from utils.run.checkpoints import load_checkpoint

pytestmark = pytest.mark.slow
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--signals-to-handle", "SIGTERM,SIGINT,SIGUSR1"]
ROOT = Path(__file__).parents[2]
TWO = ("--standalone", "--nproc_per_node=2")
SETTINGS = ["device=cpu", "model_kwargs.width=4", "batch_size=128", "knn_every=1000", "knn_backend=torch"]
SOON = 10  # seconds


def start(root, epochs, *more, launch=TWO, **options):
    script = ["simclr.py", "--config_exp", "configs/pretext/simclr_digits.yml", f"root_dir={root}"]
    command = [*LAUNCH, *launch, *script, *SETTINGS, f"epochs={epochs}", *more]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, **options)


def ends_well(root, epochs):
    return start(root, epochs).wait(120) == 0


class Run:
    """A run on two processes that has saved its first epoch. ranks: their numbers in the system."""

    def __init__(self, root, epochs, launch=TWO):
        self.checkpoint = root / "digits" / "pretext" / "checkpoint.pth.tar"
        self.output = root / "output"
        with open(self.output, "w") as file:
            self.torchrun = start(root, epochs, launch=launch, stdout=file, stderr=subprocess.STDOUT)
        self.wait_for(self.checkpoint.exists, 60)
        children = subprocess.run(["pgrep", "-P", str(self.torchrun.pid)], capture_output=True, text=True)
        self.ranks = [int(pid) for pid in children.stdout.split()]

    def wait_for(self, has_happened, seconds):
        deadline = time.monotonic() + seconds
        while not has_happened():
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.05)

    def send(self, whom, number):
        """Send a signal to `torchrun` or to a rank; all end soon."""
        os.kill(self.torchrun.pid if whom == "torchrun" else self.ranks[whom], number)
        self.wait_for(lambda: not any(map(is_alive, self.ranks)), SOON)
        self.torchrun.wait(SOON)

    def last_words(self):
        """The lines in which our processes say how they ended."""
        lines = self.output.read_text().splitlines()
        return [line for line in lines if line.startswith(("stopped;", "error:"))]


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("whom", ["torchrun", 0, 1])
def test_a_signal_to_torchrun_or_to_one_process_stops_all_after_a_saved_step(whom, number, tmp_path):
    run = Run(tmp_path, epochs=4000)
    run.send(whom, number)
    assert run.torchrun.returncode != 0
    content, fault = load_checkpoint(run.checkpoint)
    assert not fault and (content["epoch"] > 1 or content["begun_epoch"])
    assert [line[:8] for line in run.last_words()] == ["stopped;"]
    assert ends_well(tmp_path, content["epoch"] + 1)


@pytest.mark.parametrize("whom", ["torchrun", 0, 1])
def test_a_kill_of_one_ends_all_and_the_checkpoint_is_whole(whom, tmp_path):
    run = Run(tmp_path, epochs=4000)
    run.send(whom, signal.SIGKILL)
    content, fault = load_checkpoint(run.checkpoint)
    assert not fault and len(run.last_words()) <= 1  # torchrun may end the others before they speak
    assert ends_well(tmp_path, content["epoch"] + 1)


def test_torchrun_goes_on_by_itself_after_a_kill_if_it_may_restart(tmp_path):
    epochs = 60
    run = Run(tmp_path, epochs, launch=(*TWO, "--max-restarts=1"))
    os.kill(run.ranks[1], signal.SIGKILL)
    assert run.torchrun.wait(120) == 0, run.output.read_text()
    assert load_checkpoint(run.checkpoint)[0]["epoch"] == epochs


def test_a_mistake_that_all_processes_find_is_said_once(tmp_path):
    torchrun = start(tmp_path, 1, "epochz=3", stderr=subprocess.PIPE)
    ours = [line for line in torchrun.communicate()[1].splitlines() if line.startswith("error:")]
    assert torchrun.returncode != 0 and len(ours) == 1 and "epochz" in ours[0]


ALONE = """
import sys
sys.path.insert(0, "{root}")
import utils
from utils import distributed
from utils.errors import RunError
from utils.run import command

utils.put_back = lambda: None

def main():
    if distributed.rank() == 1:
        raise RunError("picture.jpg cannot be read")
    distributed.agree(0)

command(main)
"""


def test_an_error_of_one_process_is_said_once_by_that_one(tmp_path):
    script = tmp_path / "alone.py"
    script.write_text(ALONE.format(root=ROOT))
    ended = subprocess.run([*LAUNCH, *TWO, script], capture_output=True, text=True)
    ours = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert ended.returncode != 0 and len(ours) == 1 and "picture.jpg" in ours[0]


def test_two_machines_with_one_process_each_end_as_one_with_two(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"--rdzv_endpoint=127.0.0.1:{free.getsockname()[1]}"
    machine = ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", endpoint, "--rdzv_id=test"]
    agents = [start(tmp_path / "two", 2, launch=[*machine, "--local_addr=127.0.0.1"]) for _ in range(2)]
    assert [agent.wait(120) for agent in agents] == [0, 0]
    assert ends_well(tmp_path / "one", 2)
    assert same_weights(*(weights(tmp_path / root / "digits" / "pretext") for root in ("one", "two")))
