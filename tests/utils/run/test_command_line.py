import io
import os
import re
import signal
from contextlib import suppress

import pytest
import torch

from utils.config import load_config
from utils.errors import RunError, UserError
from utils.run.command_line import command, stage_arguments, stage_config
from utils.run.run import Run
from utils.storage import files
from utils.storage.files import write_whole

EXPERIMENT = "configs/scan/scan_digits.yml"


def test_stage_config_reads_both_files_and_overrides(tmp_path):
    env = tmp_path / "env.yml"
    env.write_text("root_dir: elsewhere\nlog_every: 3\n")
    argv = ["--config_env", str(env), "--config_exp", EXPERIMENT, "epochs=7", "optimizer_kwargs.lr=1e-4"]
    cfg = stage_config(stage_arguments(argv, ""), "scan")
    assert (cfg.root_dir, cfg.log_every, cfg.epochs, cfg.optimizer_kwargs.lr) == ("elsewhere", 3, 7, 0.0001)


def test_stage_config_refuses_the_config_of_another_stage():
    with pytest.raises(UserError, match=r"scan\.py"):
        stage_config(stage_arguments(["--config_exp", EXPERIMENT], ""), "simclr")


@pytest.fixture
def handlers():
    """Puts back the handlers that `command` replaces."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    "error, code",
    [
        (UserError("batch_size 0: give 2 or more"), 2),
        (RunError("the loss was not finite"), 3),
        (OSError(28, "No space left on device"), 3),
        (FileNotFoundError("no such file"), 3),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_a_foreseen_end_is_one_line_on_stderr_and_its_exit_code(error, code, handlers, capsys):
    with pytest.raises(SystemExit) as end:
        command(raising(error))
    assert end.value.code == code
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert str(error) in line and "Traceback" not in line
    assert captured.out == ""


@pytest.mark.parametrize("error", [ValueError("ours"), RuntimeError("ours"), AssertionError("ours")])
def test_a_bug_of_ours_goes_through_with_its_traceback(error, handlers):
    with pytest.raises(type(error), match="ours"):
        command(raising(error))


def test_a_main_that_ends_well_ends_the_command_quietly(handlers, capsys):
    assert command(lambda: None) is None
    assert capsys.readouterr() == ("", "")


def test_names_of_files_that_are_no_text_can_be_said(handlers, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, "utf-8", errors="strict"))
    command(lambda: print(os.fsdecode(b"\xff.png"), flush=True))
    assert written.getvalue() == b"\\udcff.png\n"


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_in_its_code_with_one_line_and_no_half_written_file_stays(
    number, code, handlers, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(files.os, "fsync", lambda _: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as end:
        command(lambda: write_whole({tmp_path / "checkpoint.pth.tar": b"half"}))
    assert end.value.code == code
    assert list(tmp_path.iterdir()) == []
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("stopped")


def test_a_signal_ends_in_its_code_though_what_it_interrupted_fails_otherwise(handlers, capfd):
    def main():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise AttributeError("a clean-up that was not ready for this")

    with pytest.raises(SystemExit) as end:
        command(main)
    assert end.value.code == 143
    assert "AttributeError" not in capfd.readouterr().err


@pytest.mark.parametrize("main", [lambda: None, raising(KeyboardInterrupt())], ids=["ended", "stopped"])
def test_when_the_command_is_over_a_signal_is_the_systems_business(main, handlers):
    with suppress(SystemExit):
        command(main)
    assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_of_an_earlier_command_excuses_no_bug(handlers):
    with pytest.raises(SystemExit):
        command(lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(ValueError, match="ours"):
        command(raising(ValueError("ours")))


# -- not enough memory


MEMORY = {
    "CUDA": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "CUDA out of memory"),
    "the CPU": (
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        "DefaultCPUAlloc",
    ),
}


@pytest.mark.parametrize("where", MEMORY)
@pytest.mark.parametrize(
    "path, size",
    [("pretext/simclr_cifar10", 32), ("scan/scan_imagenet_50", 224), ("selflabel/selflabel_stl10", 96)],
)
def test_memory_that_does_not_suffice_names_batch_image_size_and_the_keys_to_lower(
    where, path, size, handlers, monkeypatch, capsys
):
    cfg = load_config(None, f"configs/{path}.yml")
    monkeypatch.setattr(Run, "latest", cfg)
    error, reason = MEMORY[where]
    with pytest.raises(SystemExit) as end:
        command(raising(error))
    assert end.value.code == 3
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert reason in line and f"batch_size {cfg.batch_size}, views of {size} px" in line
    assert "lower batch_size" in line and "augmentation_kwargs" in line and "width" in line


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "Error in virtual void* faiss::gpu::StandardGpuResourcesImpl::allocMemory: alloc fail type FlatData",
    ],
)
def test_memory_that_a_library_of_cuda_lacks_is_known_as_such(message, handlers, monkeypatch, capsys):
    monkeypatch.setattr(Run, "latest", load_config(None, EXPERIMENT))
    with pytest.raises(SystemExit) as end:
        command(raising(RuntimeError(message)))
    assert end.value.code == 3 and "lower batch_size" in capsys.readouterr().err


def test_the_size_named_is_that_of_the_training_views(handlers, monkeypatch, capsys):
    sizes = ["augmentation_kwargs.crop_size=24", "transformation_kwargs.crop_size=32"]
    monkeypatch.setattr(Run, "latest", load_config(None, "configs/scan/scan_cifar10.yml", sizes))
    with pytest.raises(SystemExit):
        command(raising(torch.OutOfMemoryError("CUDA out of memory.")))
    assert "views of 24 px" in capsys.readouterr().err


def test_outside_of_a_run_memory_that_does_not_suffice_has_its_remedy_too(handlers, monkeypatch, capsys):
    monkeypatch.setattr(Run, "latest", None)
    with pytest.raises(SystemExit) as end:
        command(raising(torch.OutOfMemoryError("CUDA out of memory.")))
    assert end.value.code == 3 and "device=cpu" in capsys.readouterr().err


def test_a_command_line_that_argparse_refuses_ends_in_2(handlers, capsys):
    with pytest.raises(SystemExit) as end:
        command(lambda: stage_arguments([], ""))
    assert end.value.code == 2
    assert re.search("--config_exp", capsys.readouterr().err)
