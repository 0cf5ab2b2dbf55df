import os
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import eval as evaluation
from utils.errors import RunError, UserError
from utils.run.command_line import command, stage_config
from utils.run.signals import Stopped
from utils.storage.files import storage_errors

EXPERIMENT = "configs/scan/scan_digits.yml"


def test_stage_config_reads_both_files_and_overrides(tmp_path):
    env = tmp_path / "env.yml"
    env.write_text("root_dir: elsewhere\nlog_every: 3\n")
    words = ["epochs=7", "optimizer_kwargs.lr=1e-4"]
    cfg, options = stage_config(["--config_env", str(env), "--config_exp", EXPERIMENT, *words], "scan")
    assert (cfg.root_dir, cfg.log_every, cfg.epochs, cfg.optimizer_kwargs.lr) == ("elsewhere", 3, 7, 0.0001)
    assert not options.restart


def test_stage_config_refuses_the_config_of_another_stage():
    with pytest.raises(UserError, match=r"scan\.py"):
        stage_config(["--config_exp", EXPERIMENT], "simclr")


def test_all_options_that_take_a_path_put_in_a_tilde_and_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OWN", "own #1")
    (tmp_path / "env.yml").write_text("log_every: 3")
    shutil.copy(EXPERIMENT, tmp_path / "own #1")
    cfg, _ = stage_config(["--config_env=~/env.yml", "--config_exp=~/$OWN"], "scan")
    assert cfg.log_every == 3
    words = ["--config_exp=~/$OWN", "--model=~/m", "--predict", "${HOME}", "--out=$$x"]
    asked = evaluation.parse_args(words)
    assert (asked.config_exp, asked.model) == (tmp_path / "own #1", tmp_path / "m")
    assert (asked.predict, asked.out) == (tmp_path, Path("$x"))
    pretext = ["--config_exp", "configs/pretext/simclr_digits.yml", "--model=~/$OWN"]
    assert stage_config(pretext, "simclr")[1].model == tmp_path / "own #1"


@pytest.mark.parametrize("path", ["", "$UNSET/a", "x" * 256, "a\nb", "~nobody-of-this-name"])
@pytest.mark.parametrize(
    "option", ["--config_env", "--config_exp", "--model", "--predict", "--out", "--report"]
)
def test_an_option_without_a_path_that_can_be_is_refused_by_its_name(option, path, monkeypatch):
    monkeypatch.delenv("UNSET", raising=False)
    words = ["--config_exp", EXPERIMENT, "--model", "m", option, path]
    with pytest.raises(UserError, match=option) as error:
        evaluation.parse_args(words)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    "error, code, said",
    [
        (UserError("batch_size 0: give 2 or more"), 2, "batch_size 0: give 2 or more"),
        (RunError("the loss was not finite"), 3, "the loss was not finite"),
        (KeyboardInterrupt(), 130, "--restart"),
        (Stopped(15), 143, "--restart"),
        (MemoryError(), 3, "device=cpu"),
        (torch.OutOfMemoryError("CUDA out of memory."), 3, "CUDA out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), 3, "9 bytes"),
        (RuntimeError("CUDA error: out of memory"), 3, "device=cpu"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), 3, "ALLOC_FAILED"),
        (RuntimeError("faiss::gpu::Resources::allocMemory: alloc fail type FlatData"), 3, "FlatData"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), 3, "num_workers"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_a_foreseen_end_is_one_line_on_stderr_and_its_exit_code(error, code, said, capsys):
    with pytest.raises(SystemExit) as end:
        command(raising(error))
    assert end.value.code == code
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert said in line and captured.out == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_script_without_a_run_too_and_the_former_handlers_come_back(number, capsys):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end:
        command(lambda: os.kill(os.getpid(), number))
    assert end.value.code == 128 + number
    assert signal.getsignal(number) is before
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "kind", [ValueError, RuntimeError, AssertionError, FileNotFoundError, BrokenPipeError]
)
def test_a_bug_of_ours_goes_through_with_its_traceback(kind):
    with pytest.raises(kind, match="ours"):
        command(raising(kind("ours")))


def test_a_failure_of_the_storage_is_no_bug_of_ours(tmp_path, capsys):
    def main():
        with storage_errors(tmp_path):
            raise OSError(28, "No space left on device")

    with pytest.raises(SystemExit) as end:
        command(main)
    assert end.value.code == 3 and str(tmp_path) in capsys.readouterr().err


def test_a_main_that_ends_well_ends_the_command_quietly(capsys):
    command(lambda: print("all it says"))
    assert capsys.readouterr() == ("all it says\n", "")


@pytest.mark.parametrize("error", [None, ValueError])
def test_a_notebooks_settings_of_pytorch_do_not_reach_a_script_and_come_back(error):
    def settings():
        return torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device().type

    def main():
        assert settings() == (True, torch.float32, "cpu")
        torch.manual_seed(0)
        if error:
            raise error

    own = (False, torch.float64, "meta")
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    state = torch.get_rng_state()
    try:
        with torch.no_grad(), pytest.raises(error) if error else nullcontext():
            command(main)
        with torch.no_grad():
            assert settings() == own and torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


CLOSED = [PermissionError(13, "Permission denied", "/a/b"), OSError(36, "File name too long", "/a/b")]


@pytest.mark.parametrize("error", CLOSED, ids=str)
def test_what_the_system_says_of_a_path_is_no_bug_of_ours(error, capsys):
    with pytest.raises(SystemExit) as end:
        command(raising(error))
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 3 and "/a/b" in line and error.strerror in line


def test_a_command_line_that_argparse_refuses_ends_in_2(capsys):
    with pytest.raises(SystemExit) as end:
        command(lambda: stage_config([], "scan"))
    assert end.value.code == 2
    assert "--config_exp" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize(
    "error, code", [(UserError("a mistake"), 2), (RunError("no room"), 3), (Stopped(2), 130)]
)
def test_the_exit_code_is_the_same_where_nothing_can_be_said(error, code, monkeypatch):
    with open("/dev/full", "w") as full, pytest.raises(SystemExit) as end:
        monkeypatch.setattr("sys.stdout", full)
        monkeypatch.setattr("sys.stderr", full)
        command(raising(error))
    assert end.value.code == code
