"""A run stops and goes on: what is saved when, and that the weights are those of an unbroken run."""

import io
import os
import shlex
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.utils.run.toy_run import Loader, network_and_optimizer, same, train, train_epoch
from utils.config import load_config
from utils.errors import RunError, UserError
from utils.mypath import written
from utils.report.log import read_epochs
from utils.run import checkpoints, signals
from utils.run import run as module
from utils.run.run import Run
from utils.storage import files


def last(cfg):
    return torch.load(Run(cfg).folder.checkpoint, weights_only=True)


def test_the_seed_alone_decides_the_weights_drawn_after(config):
    def drawn(name, seed):
        with Run(config(f"run_name={name}", f"seed={seed}")):
            return network_and_optimizer()[0]

    assert same(drawn("a", 3), drawn("b", 3))
    assert not same(drawn("a", 3), drawn("c", 4))


@pytest.mark.parametrize("library", ["scipy.optimize", "sklearn.metrics"])
def test_a_broken_library_that_metrics_need_is_found_before_training(library, config, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, library, None)  # its import fails
    with pytest.raises(UserError, match=library), Run(config()):
        pass
    with Run(config(path="configs/pretext/simclr_digits.yml")):
        assert not any(tmp_path.iterdir())  # it has no clusters


def test_nothing_is_written_before_the_run_begins(config, tmp_path):
    with Run(config(), restart=True):
        assert list(tmp_path.iterdir()) == []


# -- save and resume


def test_a_resumed_run_has_weights_optimizer_and_values_and_goes_on_at_the_next_epoch(config):
    saved, trained = train(config(), epochs=2, best_loss=-1.5, best_loss_head=3)
    assert saved == [0, 1]
    with Run(config()) as run:
        model, optimizer = network_and_optimizer()
        values = run.restore(model, optimizer, best_loss=0.0, best_loss_head=0)
        assert same(model, trained) and values == {"best_loss": -1.5, "best_loss_head": 3}
        assert all("momentum_buffer" in optimizer.state[weight] for weight in model.parameters())
        assert list(run.epochs()) == [2, 3]


def test_a_run_stopped_after_any_epoch_ends_with_the_weights_of_an_unbroken_one(config):
    _, unbroken = train(config("run_name=unbroken"))
    for _ in range(3):
        train(config("run_name=broken"), epochs=1)
    rest, broken = train(config("run_name=broken"))
    assert rest == [3] and same(broken, unbroken)
    assert train(config("run_name=broken"))[0] == []
    assert train(config("run_name=broken", "epochs=6"))[0] == [4, 5]


def test_a_folder_holds_the_whole_config_and_a_checkpoint_of_tensors_and_plain_types(config):
    cfg = config("batch_size=64")
    _, model = train(cfg, epochs=3, best_loss=0.5)
    folder = Run(cfg).folder
    assert load_config(None, folder.path / "config.yml") == cfg
    content = torch.load(folder.checkpoint, weights_only=True)
    assert content.keys() == {"model", "optimizer", "epoch", "best_loss", "inputs", "processes"}
    assert folder.checkpoint.name == "checkpoint.pth.tar" and content["epoch"] == 3
    assert content["model"].keys() == model.state_dict().keys()


def test_a_failed_save_leaves_the_last_checkpoint(config, monkeypatch):
    train(config(), epochs=1)

    def full(_):
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"checkpoint\.pth\.tar.*space"), Run(config()) as run:
        run.restore(*network_and_optimizer())
        epoch = next(run.epochs())
        monkeypatch.setattr(files.os, "fsync", full)
        run.end_epoch(epoch, {})
    assert last(config())["epoch"] == 1
    assert not list(run.path.glob("*.part"))


def on_a_clock(monkeypatch):
    """A clock that stands still, and the checkpoints that would have been written."""
    now, written = [0.0], []
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(checkpoints, "save_checkpoint", lambda _, content, __: written.append(content))
    return now, written


@pytest.mark.parametrize(
    "seconds, saved", [(0, [1, 2, 3, 4, 5, 6]), (30, [1, 4, 6]), (1000, [1, 6])], ids=["all", "some", "ends"]
)
def test_short_epochs_are_not_all_saved_but_the_first_and_the_last_are(seconds, saved, config, monkeypatch):
    now, written = on_a_clock(monkeypatch)
    monkeypatch.setattr(checkpoints, "SAVE_SECONDS", seconds)
    with Run(config("epochs=6")) as run:
        run.restore(*network_and_optimizer())
        for epoch in run.epochs():
            now[0] += 10
            run.end_epoch(epoch, {})
    assert [content["epoch"] for content in written] == saved


def test_an_epoch_is_logged_from_1_with_the_minutes_left_at_the_pace_since_the_resume(
    config, monkeypatch, capsys
):
    train(config("epochs=6"), epochs=2)
    with Run(config("epochs=6")) as run:
        run.restore(*network_and_optimizer())
        clock = iter([100.0, 160.0])  # epoch 3 of 6 takes a minute
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        run.end_epoch(next(run.epochs()), {"train/loss": 1.0})
    assert "[3/6, 3.0 min left]" in capsys.readouterr().out
    assert '{"epoch": 3, "train/loss": 1.0}' in (run.path / "log.jsonl").read_text()


@pytest.mark.parametrize("precision, dtype", [("auto", "float32"), ("fp32", "float32"), ("bf16", "bfloat16")])
def test_the_network_runs_in_bfloat16_only_where_it_is_asked_for(config, precision, dtype):
    with Run(config(f"precision={precision}")).autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == getattr(torch, dtype)


@pytest.mark.parametrize("precision", ["auto", "fp32", "tf32", "bf16"])
def test_tf32_is_used_in_a_run_only_where_it_is_asked_for_and_settings_are_put_back(config, precision):
    def settings():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = settings()
    with Run(config(f"precision={precision}")):
        assert settings() == (precision == "tf32", precision == "tf32")
    assert settings() == before


def test_signal_handlers_are_put_back_after_a_run_however_it_ends(config):
    def handlers():
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    before = handlers()
    with pytest.raises(ValueError), Run(config()):
        assert not set(handlers()) & set(before)
        raise ValueError
    assert handlers() == before


# -- what lies in the folder already


def restore(cfg, network=None, restart=False):
    model, optimizer = network_and_optimizer()
    if network:
        model, optimizer = network, torch.optim.SGD(network.parameters(), lr=0.1)
    with Run(cfg, restart) as run:
        run.restore(model, optimizer)
    return run


def test_a_checkpoint_of_another_network_is_refused_and_one_without_its_settings(config):
    train(config(), epochs=1)
    with pytest.raises(UserError, match=r"checkpoint\.pth\.tar.*run_name="):
        restore(config(), nn.Linear(3, 4))
    (Run(config()).path / "config.yml").unlink()
    with pytest.raises(UserError, match=r"config\.yml.*--restart"):
        restore(config())


def test_a_bare_state_dict_at_the_checkpoints_place_is_a_users_mistake(config):
    cfg = config("run_name=my $digits", path="configs/pretext/simclr_digits.yml")
    folder, layer = Run(cfg).folder, nn.Linear(2, 2)
    folder.path.mkdir(parents=True)
    torch.save(layer.state_dict(), folder.checkpoint)
    with pytest.raises(UserError, match=r"checkpoint\.pth\.tar.*--model") as error:
        restore(cfg, layer)
    assert shlex.split(str(error.value))[-2:] == ["--model", written(folder.checkpoint)]


def test_a_damaged_checkpoint_gives_way_to_the_one_before_with_a_warning(config, capsys):
    _, unbroken = train(config("run_name=unbroken"))
    train(config(), epochs=2)
    Run(config()).folder.checkpoint.write_bytes(b"damaged")
    trained, model = train(config())
    assert trained == [1, 2, 3] and same(model, unbroken)
    assert "7 bytes" in capsys.readouterr().out


def test_with_no_whole_checkpoint_the_run_ends_and_restart_is_a_way_out(config, tmp_path):
    train(config(), epochs=1)
    Run(config()).folder.checkpoint.write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"7 bytes.*--restart"):
        restore(config())
    assert list(restore(config(), restart=True).epochs()) == [0, 1, 2, 3]
    assert (tmp_path / "digits" / "scan.old-1" / "checkpoint.pth.tar").read_bytes() == b"damaged"


# -- stopped within an epoch


def stopping_at(epoch, step, number=signal.SIGINT):
    return lambda now, done: (now, done) == (epoch, step) and os.kill(os.getpid(), number)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_signal_in_an_epoch_saves_after_the_step_and_the_rest_is_as_if_unbroken(number, code, step, config):
    _, unbroken = train(config("run_name=unbroken"))
    with pytest.raises(signals.Stopped) as stop:
        train(config(), after_batch=stopping_at(1, step, number), best_loss=-1.5)
    assert stop.value.code == code
    content = last(config())
    assert (content["epoch"], content["begun_epoch"]["step"], content["best_loss"]) == (1, step + 1, -1.5)

    with Run(config()) as run:
        model, optimizer = network_and_optimizer()
        assert run.restore(model, optimizer, best_loss=0.0) == {"best_loss": -1.5}
        for epoch in run.epochs():
            meter = train_epoch(run, model, optimizer, epoch)
            assert meter.counts == {"seen": 24} and meter.measured == 3  # of the whole epoch
            run.end_epoch(epoch, {})
    assert same(model, unbroken)


def test_stopped_twice_within_an_epoch_the_values_of_the_epoch_before_are_saved(config):
    for step in (0, 1):
        with pytest.raises(signals.Stopped), Run(config()) as run:
            model, optimizer = network_and_optimizer()
            values = run.restore(model, optimizer, best_loss=0.0)
            assert values == {"best_loss": -1.5 if step else 0.0}
            for epoch in run.epochs():
                train_epoch(run, model, optimizer, epoch, stopping_at(1, step))
                run.end_epoch(epoch, {}, best_loss=-1.5)
    assert last(config())["best_loss"] == -1.5


def test_fewer_epochs_than_are_done_or_begun_are_refused_and_change_nothing(config):
    with pytest.raises(signals.Stopped):
        train(config(), after_batch=stopping_at(2, 0))
    saved = (Run(config()).path / "config.yml").read_bytes()
    with pytest.raises(UserError, match=r"epoch 2\b.*1 steps.*epochs: 2"):
        train(config("epochs=2"))
    assert train(config("epochs=3"))[0] == [2]
    with pytest.raises(UserError, match=r"epoch 3\b.*epochs: 2"):
        train(config("epochs=2"))
    assert (Run(config()).path / "config.yml").read_bytes() == saved.replace(b"epochs: 4", b"epochs: 3")


@pytest.mark.parametrize("after", ["the save", "the training"])
def test_a_signal_between_the_epochs_stops_after_the_save(config, after, monkeypatch):
    monkeypatch.setattr(checkpoints, "SAVE_SECONDS", 1000)  # epoch 2 would not be saved but for the signal
    epochs = 1 if after == "the save" else 4
    with pytest.raises(signals.Stopped), Run(config(f"epochs={epochs}")) as run:
        model, optimizer = network_and_optimizer()
        run.restore(model, optimizer)
        for epoch in run.epochs():
            train_epoch(run, model, optimizer, epoch)
            if after == "the training" and epoch == 1:
                os.kill(os.getpid(), signal.SIGINT)
            run.end_epoch(epoch, {})
            if after == "the save":
                os.kill(os.getpid(), signal.SIGINT)
    assert last(config())["epoch"] == (1 if after == "the save" else 2)


def test_every_so_many_minutes_an_epoch_is_saved_in_its_middle(config, monkeypatch):
    now, written = on_a_clock(monkeypatch)

    def a_minute_later(epoch, step):
        now[0] += 60

    with Run(config("save_minutes=2")) as run:
        model, optimizer = network_and_optimizer()
        run.restore(model, optimizer)
        train_epoch(run, model, optimizer, next(run.epochs()), a_minute_later)
    assert [content["begun_epoch"]["step"] for content in written] == [2]


@pytest.mark.parametrize("what", ["loss", "weights"])
def test_what_is_not_finite_is_never_saved_in_the_middle(config, what):
    cfg, (model, optimizer) = config("save_minutes=1e-9"), network_and_optimizer()
    with pytest.raises(RunError, match=rf"{what}.*epoch 1, step 1\b"), Run(cfg) as run:
        run.restore(model, optimizer)
        meter = run.meter(Loader(), next(run.epochs()))
        for _ in meter:
            if what == "loss":
                meter.update(loss=torch.tensor(torch.nan))
            else:
                model[0].weight.data[0, 0] = torch.nan
    assert not run.folder.checkpoint.exists()


# -- not enough memory


@pytest.mark.parametrize(
    "path, overrides, size",
    [
        ("pretext/simclr_cifar10", [], 32),
        ("scan/scan_imagenet_50", [], 224),
        ("scan/scan_cifar10", ["augmentation_kwargs.crop_size=24", "transformation_kwargs.crop_size=32"], 24),
        ("selflabel/selflabel_stl10", [], 96),
        ("pretext/moco_imagenet50", [], 224),
    ],
)
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()], ids=type)
def test_memory_that_runs_out_names_batch_size_and_size_of_the_training_views_and_the_keys_to_lower(
    path, overrides, size, error, config
):
    cfg = config(*overrides, path=f"configs/{path}.yml")
    with pytest.raises(RunError, match="model_kwargs") as end, Run(cfg):
        raise error
    text = str(end.value)
    assert f"batch_size (now {cfg.batch_size})" in text and f"{size} px" in text


def test_a_validation_loss_that_is_not_finite_ends_the_run_before_its_checkpoint_and_names_the_rate(config):
    with pytest.raises(RunError, match=r"epoch 1.*optimizer_kwargs\.lr"), Run(config()) as run:
        run.restore(*network_and_optimizer())
        run.end_epoch(0, {"val/total_loss": torch.nan})
    assert not run.folder.checkpoint.exists()


# -- the process around it


class Console(io.StringIO):
    """Gone after the first line."""

    def write(self, text):
        if "\n" in self.getvalue():
            raise BrokenPipeError(32, "Broken pipe")
        return super().write(text)


def test_a_run_goes_on_without_its_console_and_the_log_has_every_epoch(config, monkeypatch):
    _, expected = train(config("run_name=heard"))
    monkeypatch.setattr("sys.stdout", Console())
    trained, model = train(config("run_name=unheard"))
    assert trained == [0, 1, 2, 3] and same(model, expected)
    assert list(read_epochs(Run(config("run_name=unheard")).path / "log.jsonl")) == [1, 2, 3, 4]


def test_a_run_in_another_thread_than_the_main_one_works(config):
    _, expected = train(config("run_name=main"))
    with ThreadPoolExecutor(1) as pool:
        _, model = pool.submit(train, config("run_name=thread")).result()
    assert same(model, expected)
