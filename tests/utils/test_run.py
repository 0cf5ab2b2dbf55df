import os
import re
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from utils import logger
from utils import run as module
from utils.config import load_config
from utils.errors import RunError, UserError
from utils.run import Run, choose_device, command, stage_arguments, stage_config

EXPERIMENT = "configs/scan/scan_digits.yml"


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    monkeypatch.setattr(logger, "SummaryWriter", None)


@pytest.fixture
def config(tmp_path):
    """Of a run of 4 epochs under `tmp_path`, with further overrides."""

    def build(*overrides, path=EXPERIMENT):
        return load_config(None, path, [f"root_dir={tmp_path}", "device=cpu", "epochs=4", *overrides])

    return build


def network_and_optimizer():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train_epoch(model, optimizer, epoch):
    images = torch.randn(8, 3, generator=torch.Generator().manual_seed(epoch))
    optimizer.zero_grad()
    model(images).square().mean().backward()
    optimizer.step()


def start(cfg):
    """A run, its network and optimizer, and what a checkpoint held besides."""
    run = Run(cfg)
    model, optimizer = network_and_optimizer()
    return run, model, optimizer, run.resume(model, optimizer)


def train(cfg, epochs, **state):
    """Train and save the next so many epochs, then stop; returns the epochs and the network."""
    run, model, optimizer, _ = start(cfg)
    trained = []
    for epoch in run.epochs():
        if len(trained) == epochs:
            break
        train_epoch(model, optimizer, epoch)
        run.save(epoch, model, optimizer, **state)
        trained.append(epoch)
    return trained, model


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# -- device


@pytest.mark.parametrize(
    "name, has_cuda, expected",
    [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_the_device_is_the_one_named_and_auto_is_cuda_where_there_is_one(name, has_cuda, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert choose_device(name) == torch.device(expected)


def test_cuda_without_a_device_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"device: cuda .* device=auto or device=cpu"):
        choose_device("cuda")


# -- folder and config


@pytest.mark.parametrize(
    "path, stage",
    [
        ("configs/pretext/simclr_digits.yml", "pretext"),
        ("configs/pretext/moco_imagenet50.yml", "pretext"),
        ("configs/scan/scan_digits.yml", "scan"),
        ("configs/selflabel/selflabel_digits.yml", "selflabel"),
    ],
)
def test_a_run_makes_its_folder_and_keeps_the_whole_config_there(config, tmp_path, path, stage):
    cfg = config("run_name=mine", path=path)
    run = Run(cfg)
    assert run.folder == tmp_path / "mine" / stage
    next(run.epochs())  # training is about to begin
    assert load_config(None, run.folder / "config.yml") == cfg


def test_the_folder_is_named_after_the_data_set_when_the_run_has_no_name(config, tmp_path):
    assert Run(config()).folder == tmp_path / "digits" / "scan"


def test_the_seed_alone_decides_the_weights_drawn_after(config):
    first, again, other = (start(config(f"run_name={name}", f"seed={seed}"))[1] for name, seed in ("a3", "b3", "c4"))
    assert same(first, again)
    assert not same(first, other)


def test_another_config_in_the_folder_of_a_checkpoint_is_refused_naming_folder_and_keys(config):
    train(config(), epochs=1)
    folder = Run(config()).folder
    kept = (folder / "config.yml").read_bytes()
    with pytest.raises(UserError) as error:
        Run(config("batch_size=64", "optimizer_kwargs.lr=0.5"))
    message = str(error.value)
    assert str(folder) in message and "run_name=" in message and "\n" not in message
    assert "batch_size: 256 -> 64; optimizer_kwargs.lr: 0.001 -> 0.5" in message
    assert (folder / "config.yml").read_bytes() == kept


def test_another_config_may_take_a_folder_that_holds_no_checkpoint(config):
    next(Run(config()).epochs())
    run = Run(config("batch_size=64"))
    next(run.epochs())
    assert load_config(None, run.folder / "config.yml").batch_size == 64


# -- save and resume


def test_a_resumed_run_has_weights_optimizer_and_extra_values_and_goes_on_at_the_next_epoch(config):
    saved, model = train(config(), epochs=2, best_loss=-1.5, best_loss_head=3)
    assert saved == [0, 1]
    run, resumed, optimizer, state = start(config())
    assert same(resumed, model)
    assert state == {"best_loss": -1.5, "best_loss_head": 3}
    assert all("momentum_buffer" in optimizer.state[parameter] for parameter in resumed.parameters())
    assert list(run.epochs()) == [2, 3]


def test_a_run_stopped_after_any_epoch_ends_with_the_weights_of_an_unbroken_one(config):
    _, unbroken = train(config("run_name=unbroken"), epochs=4)
    for _ in range(3):
        train(config("run_name=broken"), epochs=1)
    rest, broken = train(config("run_name=broken"), epochs=4)
    assert rest == [3]
    assert same(broken, unbroken)


def test_a_fresh_run_has_nothing_to_resume_and_every_epoch_ahead(config):
    run, _, _, state = start(config())
    assert state == {}
    assert list(run.epochs()) == [0, 1, 2, 3]


def test_a_finished_run_has_no_epoch_left_until_epochs_is_raised(config):
    train(config(), epochs=4)
    assert train(config(), epochs=4)[0] == []
    assert train(config("epochs=6"), epochs=4)[0] == [4, 5]


def test_a_checkpoint_of_another_network_is_refused(config):
    train(config(), epochs=1)
    other = nn.Linear(3, 4)
    with pytest.raises(UserError, match=r"checkpoint\.pth\.tar does not fit"):
        Run(config()).resume(other, torch.optim.SGD(other.parameters(), lr=0.1))


def plain(value):
    if isinstance(value, dict):
        return all(plain(key) and plain(item) for key, item in value.items())
    if type(value) in (list, tuple):
        return all(map(plain, value))
    return value is None or type(value) in (bool, int, float, str, torch.Tensor)


def test_a_checkpoint_holds_tensors_and_plain_types_under_unprefixed_names_and_the_finished_epochs(config):
    _, model = train(config(), epochs=3, best_loss=0.5)
    path = Run(config()).checkpoint
    assert path.name == "checkpoint.pth.tar"
    content = torch.load(path, weights_only=True)
    assert content.keys() == {"model", "optimizer", "epoch", "best_loss"}
    assert content["epoch"] == 3
    assert content["model"].keys() == model.state_dict().keys()
    assert plain(torch.load(path, weights_only=False))


def test_a_failed_save_leaves_the_last_checkpoint(config, monkeypatch):
    train(config(), epochs=1)
    run, model, optimizer, _ = start(config())

    def fail(content, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space"):
        run.save(1, model, optimizer)
    assert torch.load(run.checkpoint, weights_only=True)["epoch"] == 1


# -- during the run


def test_something_is_due_every_so_many_epochs_and_at_the_last(config):
    run = Run(config("epochs=5"))
    assert [run.is_due(epoch, 2) for epoch in range(5)] == [False, True, False, True, True]


def test_an_epoch_is_logged_from_1_with_the_minutes_left_at_the_pace_since_the_resume(config, monkeypatch, capsys):
    train(config("epochs=6"), epochs=2)
    run, *_ = start(config("epochs=6"))
    clock = iter([100.0, 160.0])  # epoch 3 of 6 takes a minute
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    epoch = next(run.epochs())
    run.log_epoch(epoch, {"train/loss": 1.0})
    assert "[3/6, 3.0 min left]" in capsys.readouterr().out
    assert '{"epoch": 3, "train/loss": 1.0}' in (run.folder / "log.jsonl").read_text()


@pytest.mark.parametrize("precision, dtype", [("auto", "float32"), ("fp32", "float32"), ("bf16", "bfloat16")])
def test_the_network_runs_in_bfloat16_only_where_it_is_asked_for(config, precision, dtype):
    with Run(config(f"precision={precision}")).autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == getattr(torch, dtype)


# -- the command line


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
def sigterm():
    """Puts back the handler that `command` replaces."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


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
def test_a_foreseen_end_is_one_line_on_stderr_and_its_exit_code(error, code, sigterm, capsys):
    with pytest.raises(SystemExit) as end:
        command(raising(error))
    assert end.value.code == code
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert str(error) in line and "Traceback" not in line
    assert captured.out == ""


@pytest.mark.parametrize("error", [ValueError("ours"), RuntimeError("ours"), AssertionError("ours")])
def test_a_bug_of_ours_goes_through_with_its_traceback(error, sigterm):
    with pytest.raises(type(error), match="ours"):
        command(raising(error))


def test_a_main_that_ends_well_ends_the_command_quietly(sigterm, capsys):
    assert command(lambda: None) is None
    assert capsys.readouterr() == ("", "")


def test_sigterm_ends_in_143_and_unwinds_so_that_no_half_written_file_stays(sigterm, tmp_path):
    def main():
        with module.replacing(tmp_path / "checkpoint.pth.tar") as file:
            file.write(b"half")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)  # the handler runs before this is over

    with pytest.raises(SystemExit) as end:
        command(main)
    assert end.value.code == 143
    assert list(tmp_path.iterdir()) == []


def test_a_command_line_that_argparse_refuses_ends_in_2(sigterm, capsys):
    with pytest.raises(SystemExit) as end:
        command(lambda: stage_arguments([], ""))
    assert end.value.code == 2
    assert re.search("--config_exp", capsys.readouterr().err)


def test_a_bare_state_dict_at_the_checkpoints_place_is_a_users_mistake(tmp_path):
    run = Run(load_config(None, "configs/pretext/simclr_digits.yml", [f"root_dir={tmp_path}", "device=cpu"]))
    layer = nn.Linear(2, 2)
    torch.save(layer.state_dict(), run.checkpoint)
    with pytest.raises(UserError, match=r"checkpoint\.pth\.tar is no checkpoint"):
        run.resume(layer, torch.optim.SGD(layer.parameters(), lr=0.1))


def test_a_restart_that_would_start_from_other_weights_is_refused(config, tmp_path):
    start_file = tmp_path / "model.pth.tar"

    def started(content):
        start_file.write_bytes(content)
        run, model, optimizer, _ = begin(config())
        run.starts_from(start_file)
        return run, model, optimizer

    run, model, optimizer = started(b"first")
    run.save(0, model, optimizer)
    run, model, optimizer = started(b"first")
    run.resume(model, optimizer)
    assert run.finished_epochs == 1
    run, model, optimizer = started(b"other")
    with pytest.raises(UserError, match="began with other weights"):
        run.resume(model, optimizer)


def begin(cfg):
    model, optimizer = network_and_optimizer()
    return Run(cfg), model, optimizer, None


def test_fewer_epochs_than_are_finished_is_refused(config):
    train(config(), epochs=3)
    kept = (Run(config()).folder / "config.yml").read_bytes()
    with pytest.raises(UserError, match="finished 3 epochs, more than epochs: 2"):
        train(config("epochs=2"), epochs=1)
    assert (Run(config()).folder / "config.yml").read_bytes() == kept


def test_a_damaged_checkpoint_says_what_to_do(config):
    run, model, optimizer, _ = begin(config())
    run.checkpoint.write_bytes(b"damaged")
    with pytest.raises(UserError, match="move it away to start anew"):
        run.resume(model, optimizer)


def test_weights_that_are_not_finite_stop_the_run_before_they_are_saved(config):
    run, model, _, _ = begin(config())
    run.check_finite(4, model)
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    with pytest.raises(RunError, match="epoch 5"):
        run.check_finite(4, model)
