import gc
import os
import signal
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from data.dataset import ResidentDataset
from utils.config import load_config
from utils.errors import RunError, UserError
from utils.run import logger
from utils.run import run as module
from utils.run import signals as stopping
from utils.run.run import Run
from utils.storage import files
from utils.storage.files import read_manifest, save_with_manifest, sha256_of

EXPERIMENT = "configs/scan/scan_digits.yml"


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    monkeypatch.setattr(logger, "SummaryWriter", None)


@pytest.fixture(autouse=True)
def every_epoch_saved(monkeypatch):
    """As where epochs last for minutes."""
    monkeypatch.setattr(module, "REST", 0)


@pytest.fixture
def config(tmp_path):
    """Of a run of 4 epochs under `tmp_path`, with further overrides."""

    def build(*overrides, path=EXPERIMENT):
        return load_config(None, path, [f"root_dir={tmp_path}", "device=cpu", "epochs=4", *overrides])

    return build


def network_and_optimizer():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


class Loader:
    """Three batches an epoch, other ones in each."""

    batch_size, epoch, first_step = 8, 0, 0

    def set_epoch(self, epoch, first_step):
        self.epoch, self.first_step = epoch, first_step

    def __len__(self):
        return 3

    def __iter__(self):
        for step in range(self.first_step, 3):
            images = torch.randn(8, 3, generator=torch.Generator().manual_seed(3 * self.epoch + step))
            yield SimpleNamespace(index=torch.arange(8), images=images)


def train_epoch(run, model, optimizer, epoch, after_batch=lambda epoch, step: None):
    progress = run.steps(Loader(), epoch)
    for batch in progress:
        loss = model(batch.images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress.count(seen=8)
        progress.update(loss=loss)
        after_batch(epoch, progress.step)
    return progress


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
        train_epoch(run, model, optimizer, epoch)
        run.save(epoch, **state)
        trained.append(epoch)
    return trained, model


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


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
    run, *_ = start(cfg)
    assert run.folder == tmp_path / "mine" / stage
    next(run.epochs())  # training is about to begin
    assert load_config(None, run.folder / "config.yml") == cfg


def test_the_folder_is_named_after_the_data_set_when_the_run_has_no_name(config, tmp_path):
    assert Run(config()).folder == tmp_path / "digits" / "scan"


def test_the_seed_alone_decides_the_weights_drawn_after(config):
    first, again, other = (
        start(config(f"run_name={name}", f"seed={seed}"))[1] for name, seed in ("a3", "b3", "c4")
    )
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
    assert "batch_size: 256 -> 64; optimizer_kwargs.lr: 0.001 -> 0.5" in message and "--restart" in message
    assert (folder / "config.yml").read_bytes() == kept


def test_another_config_may_take_a_folder_that_holds_no_checkpoint(config):
    next(start(config())[0].epochs())
    run, *_ = start(config("batch_size=64"))
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
    assert content.keys() == {"model", "optimizer", "epoch", "best_loss", "inputs"}
    assert content["epoch"] == 3
    assert content["model"].keys() == model.state_dict().keys()
    assert plain(torch.load(path, weights_only=False))


def test_a_failed_save_leaves_the_last_checkpoint(config, monkeypatch):
    train(config(), epochs=1)
    run, *_ = start(config())
    epoch = next(run.epochs())

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(
        RunError, match=r"cannot write .*checkpoint\.pth\.tar.*: No space left on device; free some"
    ):
        run.save(epoch)
    assert torch.load(run.checkpoint, weights_only=True)["epoch"] == 1
    assert not list(run.folder.glob("*.part"))


# -- during the run


def test_something_is_due_every_so_many_epochs_and_at_the_last(config):
    run = Run(config("epochs=5"))
    assert [run.is_due(epoch, 2) for epoch in range(5)] == [False, True, False, True, True]


def test_an_epoch_is_logged_from_1_with_the_minutes_left_at_the_pace_since_the_resume(
    config, monkeypatch, capsys
):
    train(config("epochs=6"), epochs=2)
    run, *_ = start(config("epochs=6"))
    clock = iter([100.0, 160.0])  # epoch 3 of 6 takes a minute
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    epoch = next(run.epochs())
    run.log_epoch(epoch, {"train/loss": 1.0})
    assert "[3/6, 3.0 min left]" in capsys.readouterr().out
    assert '{"epoch": 3, "train/loss": 1.0}' in (run.folder / "log.jsonl").read_text()


@pytest.mark.parametrize("precision, dtype", [("auto", "float32"), ("fp32", "float32"), ("bf16", "bfloat16")])
def test_the_network_runs_in_bfloat16_only_where_it_is_asked_for(config, precision, dtype):
    with Run(config(f"precision={precision}")).autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == getattr(torch, dtype)


def test_weights_that_are_not_finite_stop_the_run_before_they_are_saved(config):
    run, model, *_ = start(config())
    run.check_finite(4)
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    with pytest.raises(RunError, match="epoch 5"):
        run.check_finite(4)


# -- what lies in the folder already


def test_nothing_is_written_before_the_run_takes_up_its_work(config, tmp_path):
    Run(config(), restart=True)
    assert list(tmp_path.iterdir()) == []


def test_a_bare_state_dict_at_the_checkpoints_place_is_a_users_mistake(config):
    run = Run(config(path="configs/pretext/simclr_digits.yml"))
    layer = nn.Linear(2, 2)
    run.folder.mkdir(parents=True)
    torch.save(layer.state_dict(), run.checkpoint)
    with pytest.raises(UserError, match=r"checkpoint\.pth\.tar is no checkpoint"):
        run.resume(layer, torch.optim.SGD(layer.parameters(), lr=0.1))


def test_a_checkpoint_without_its_settings_is_not_gone_on_from(config):
    train(config(), epochs=1)
    (Run(config()).folder / "config.yml").unlink()
    with pytest.raises(UserError, match=r"lacks config\.yml.*--restart"):
        start(config())


def test_settings_are_compared_where_a_kill_left_only_the_checkpoint_before(config):
    train(config(), epochs=2)
    Run(config()).checkpoint.unlink()
    with pytest.raises(UserError, match="batch_size: 256 -> 64"):
        Run(config("batch_size=64"))


def test_a_long_list_of_differences_is_cut_to_eight_and_counted(config):
    train(config(), epochs=1)
    with pytest.raises(UserError, match=r"and \d+ more\)") as error:
        Run(config("run_name=digits", path="configs/scan/scan_cifar10.yml"))
    assert str(error.value).count(" -> ") == 8


def test_fewer_epochs_than_are_finished_is_refused(config):
    train(config(), epochs=3)
    kept = (Run(config()).folder / "config.yml").read_bytes()
    with pytest.raises(UserError, match="after epoch 3, more than epochs: 2"):
        train(config("epochs=2"), epochs=1)
    assert (Run(config()).folder / "config.yml").read_bytes() == kept


def test_a_damaged_checkpoint_gives_way_to_the_one_before_with_a_warning(config, capsys):
    _, unbroken = train(config("run_name=unbroken"), epochs=4)
    train(config(), epochs=2)
    Run(config()).checkpoint.write_bytes(b"damaged")
    trained, model = train(config(), epochs=4)
    assert trained == [1, 2, 3] and same(model, unbroken)
    assert "(7 bytes) is damaged" in capsys.readouterr().out


def test_with_no_whole_checkpoint_the_run_ends_and_restart_is_a_way_out(config, tmp_path):
    train(config(), epochs=1)
    Run(config()).checkpoint.write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"\(7 bytes\) is damaged.*--restart"):
        start(config())
    run = Run(config(), restart=True)
    model, optimizer = network_and_optimizer()
    assert run.resume(model, optimizer) == {} and list(run.epochs()) == [0, 1, 2, 3]
    assert (tmp_path / "digits" / "scan.old-1" / "checkpoint.pth.tar").read_bytes() == b"damaged"


def test_restart_may_change_the_settings_and_keeps_the_old_run_aside(config, tmp_path):
    train(config(), epochs=1)
    run = Run(config("batch_size=64"), restart=True)
    assert run.resume(*network_and_optimizer()) == {}
    old = tmp_path / "digits" / "scan.old-1"
    assert load_config(None, old / "config.yml").batch_size == 256
    assert torch.load(old / "checkpoint.pth.tar", weights_only=True)["epoch"] == 1


# -- what the run starts from


def images(count, value=0):
    return ResidentDataset(torch.full((count, 3, 2, 2), value, dtype=torch.uint8), None, [])


@pytest.fixture
def pretext(tmp_path):
    """A pretext model in its folder, with its record."""

    def write(content):
        folder = tmp_path / "digits" / "pretext"
        folder.mkdir(parents=True, exist_ok=True)
        save_with_manifest(folder / "model.pth.tar", content, {"data_set": "digits"})
        return folder

    return write


def begin(cfg, folder, train_set, val_set):
    run = Run(cfg)
    run.starts_from(folder, "model.pth.tar")
    run.handover.records = {}  # what the file was made from is the business of test_handover.py
    run.uses(train_set, val_set)
    run.resume(*network_and_optimizer())
    return run


@pytest.mark.parametrize(
    "weights, train_set, val_set, changed",
    [
        (b"other", images(4), images(2), "model.pth.tar"),
        (b"first", images(5), images(2), "train images"),
        (b"first", images(4, value=1), images(2), "train images"),
        (b"first", images(4), images(2, value=1), "val images"),
        (b"other", images(4), images(3), "model.pth.tar, val images"),
    ],
)
def test_a_run_goes_on_only_with_what_it_began_with(config, pretext, weights, train_set, val_set, changed):
    run = begin(config(), pretext(b"first"), images(4), images(2))
    next(run.epochs())
    run.save(0)
    assert begin(config(), pretext(b"first"), images(4), images(2)).finished_epochs == 1
    with pytest.raises(UserError, match=rf"began with other {changed} than there are now.*--restart"):
        begin(config(), pretext(weights), train_set, val_set)


def test_files_without_a_record_are_noted_in_the_log(config, pretext):
    folder = pretext(b"published")
    (folder / "model.pth.tar.json").unlink()
    run = begin(config(), folder, images(4), images(2))
    assert "model.pth.tar has no record of what it was made from" in (run.folder / "log.jsonl").read_text()


def test_model_and_neighbors_carry_the_data_set_split_n_t_and_fingerprints(config):
    run = Run(config(path="configs/pretext/simclr_digits.yml"))
    run.uses(images(4), images(2))
    run.resume(*network_and_optimizer())
    run.save_model({"weight": torch.ones(3)})
    run.save_neighbors("val", torch.tensor([[0, 1], [1, 0]]))
    model, neighbors = run.folder / "model.pth.tar", run.folder / "topk-val-neighbors.npy"
    train_facts = {
        "data_set": "digits",
        "split": "train",
        "images": 4,
        "images_sha256": images(4).fingerprint,
    }
    val_facts = {"data_set": "digits", "split": "val", "images": 2, "images_sha256": images(2).fingerprint}
    assert read_manifest(model) == {
        "sha256": sha256_of(model),
        "bytes": model.stat().st_size,
        "holds": "model of simclr",
        **train_facts,
        "made_from": {"train images": images(4).fingerprint, "val images": images(2).fingerprint},
    }
    assert read_manifest(neighbors) == {
        "sha256": sha256_of(neighbors),
        "bytes": neighbors.stat().st_size,
        "holds": "nearest neighbors",
        **val_facts,
        "topk": 1,
        "weights_sha256": sha256_of(model),
    }


# -- stopped within an epoch


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stopping.listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_signal_in_an_epoch_saves_after_the_step_and_the_rest_is_as_if_unbroken(
    number, code, step, config, handlers
):
    _, unbroken = train(config("run_name=unbroken"), epochs=4)
    run, model, optimizer, _ = start(config())

    def signal_in_second_epoch(epoch, done):
        if (epoch, done) == (1, step):
            os.kill(os.getpid(), number)

    with pytest.raises(stopping.Stopped) as stop:
        for epoch in run.epochs():
            train_epoch(run, model, optimizer, epoch, signal_in_second_epoch)
            run.save(epoch, best_loss=-1.5)
    assert stop.value.code == code
    content = torch.load(run.checkpoint, weights_only=True)
    assert (content["epoch"], content["begun_epoch"]["step"], content["best_loss"]) == (1, step + 1, -1.5)

    run, model, optimizer, state = start(config())
    assert state == {"best_loss": -1.5}
    for epoch in run.epochs():
        progress = train_epoch(run, model, optimizer, epoch)
        assert progress.counts == {"seen": 24} and progress.measured == 3  # of the whole epoch
        run.save(epoch)
    assert same(model, unbroken)


def test_stopped_twice_within_an_epoch_the_values_of_the_epoch_before_are_kept(config, handlers):
    for step in (0, 1):
        stopping.listen()
        run, model, optimizer, state = start(config())
        assert state == ({"best_loss": -1.5} if step else {})
        with pytest.raises(stopping.Stopped):
            for epoch in run.epochs():
                stop = lambda now, done, step=step: (
                    (now, done) == (1, step) and os.kill(os.getpid(), signal.SIGINT)
                )
                train_epoch(run, model, optimizer, epoch, stop)
                run.save(epoch, best_loss=-1.5)
    assert start(config())[3] == {"best_loss": -1.5}


def test_a_signal_after_the_last_save_is_not_lost(config, handlers):
    run, *_ = start(config("epochs=1"))
    with pytest.raises(stopping.Stopped):
        for epoch in run.epochs():
            run.save(epoch)
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_between_the_epochs_stops_after_the_save(config, handlers):
    run, model, optimizer, _ = start(config())
    with pytest.raises(stopping.Stopped):
        for epoch in run.epochs():
            train_epoch(run, model, optimizer, epoch)
            os.kill(os.getpid(), signal.SIGINT)  # as in the validation
            run.save(epoch)
    assert list(start(config())[0].epochs()) == [1, 2, 3]


def test_an_epoch_that_was_begun_counts_when_fewer_epochs_are_asked_for(config, handlers):
    run, model, optimizer, _ = start(config())
    with pytest.raises(stopping.Stopped):
        for epoch in run.epochs():
            train_epoch(
                run, model, optimizer, epoch, lambda now, _: now == 2 and os.kill(os.getpid(), signal.SIGINT)
            )
            run.save(epoch)
    with pytest.raises(UserError, match="after epoch 2 and 1 steps of the next, more than epochs: 2"):
        start(config("epochs=2"))
    assert list(start(config("epochs=3"))[0].epochs()) == [2]


@pytest.mark.parametrize(
    ("rest", "saved"), [(0, [1, 2, 3, 4, 5, 6]), (30, [1, 4, 6]), (1000, [1, 6])], ids=["all", "some", "ends"]
)
def test_short_epochs_are_not_all_saved_but_the_first_and_the_last_are(rest, saved, config, monkeypatch):
    now, written = [0.0], []
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(module, "REST", rest)
    monkeypatch.setattr(module, "save_checkpoint", lambda _, content, __: written.append(content["epoch"]))
    run, *_ = start(config("epochs=6"))
    for epoch in run.epochs():
        now[0] += 10
        run.save(epoch)
    assert written == saved


def test_a_run_that_is_to_stop_is_saved_after_its_epoch_however_short(config, monkeypatch):
    monkeypatch.setattr(module, "REST", 1000)
    with stopping.listening(), pytest.raises(stopping.Stopped):
        run, *_ = start(config())
        for epoch in run.epochs():
            if epoch == 1:
                os.kill(os.getpid(), signal.SIGINT)
            run.save(epoch)
    assert torch.load(run.checkpoint, weights_only=True)["epoch"] == 2


def test_every_so_many_minutes_an_epoch_is_saved_in_its_middle(config, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    run, model, optimizer, _ = start(config("save_minutes=2"))
    saved = []

    def a_minute_later(epoch, done):
        now[0] += 60
        if run.checkpoint.exists():
            content = torch.load(run.checkpoint, weights_only=True)
            saved.append((content["epoch"], content["begun_epoch"]["step"]))

    epoch = next(run.epochs())
    train_epoch(run, model, optimizer, epoch, a_minute_later)
    assert saved == [(0, 2)]  # in the third step: the one after two minutes
    assert torch.load(run.checkpoint, weights_only=True)["begun_epoch"]["step"] == 2


def test_a_loss_that_is_not_finite_is_never_saved_in_the_middle(config):
    run, *_ = start(config("save_minutes=1e-9"))
    next(run.epochs())
    progress = run.steps(Loader(), 0)
    with pytest.raises(RunError, match="epoch 1, step 1: loss"):
        for _ in progress:
            progress.update(loss=torch.tensor(torch.nan))
    assert not run.checkpoint.exists()


def test_weights_that_are_not_finite_are_never_saved_in_the_middle(config):
    run, model, *_ = start(config("save_minutes=1e-9"))
    next(run.epochs())
    with pytest.raises(RunError, match="weights were not finite in epoch 1"):
        for _ in run.steps(Loader(), 0):
            with torch.no_grad():
                model[0].weight[0, 0] = torch.nan
    assert not run.checkpoint.exists()


# -- the end


def finish(cfg):
    run, model, *_ = start(cfg)
    for epoch in run.epochs():
        run.save(epoch)
    run.save_model(model.state_dict())
    run.finish("the model")
    return run


def test_a_finished_stage_says_so(config, capsys):
    run = finish(config())
    capsys.readouterr()
    assert Run(config()).is_finished(lambda: None)
    assert f"{run.folder} is finished (4 epochs)" in capsys.readouterr().out


def test_a_stage_is_not_finished_before_its_end(config):
    train(config(), epochs=4)
    assert not Run(config()).is_finished(lambda: None)


@pytest.mark.parametrize(
    "change", ["more epochs", "restart", "more neighbors", "no model", "another model", "cut off"]
)
def test_a_finished_stage_is_taken_up_again_when_something_is_left_to_do(config, change):
    run = finish(config())
    again = Run(config())
    if change == "more epochs":
        again = Run(config("epochs=5"))
    elif change == "restart":
        again = Run(config(), restart=True)
    elif change == "more neighbors":
        again.cfg.num_neighbors += 1
    elif change == "no model":
        (run.folder / "model.pth.tar").unlink()
    elif change == "another model":
        (run.folder / "model.pth.tar").write_bytes(b"other")
    else:
        run.ending.write_bytes(run.ending.read_bytes()[:-9])
    assert not again.is_finished(lambda: None)


def without_checkpoints(run):
    for path in run.folder.glob("*checkpoint*"):
        path.unlink()


def test_a_finished_stage_without_its_checkpoints_keeps_to_its_settings_and_its_model(config):
    run = finish(config())
    without_checkpoints(run)
    model = (run.folder / "model.pth.tar").read_bytes()
    assert Run(config()).is_finished(lambda: None)
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        Run(config("seed=1"))
    with pytest.raises(
        UserError, match=r"is finished and has no checkpoint to go on from: put it back, or .*--restart"
    ):
        start(config("epochs=9"))
    assert (run.folder / "model.pth.tar").read_bytes() == model


def test_settings_of_today_do_not_stand_in_for_those_the_run_began_with(config, monkeypatch, tmp_path):
    train(config(), epochs=1)
    today = tmp_path / "env.yml"
    today.write_text("max_images: 100")
    monkeypatch.setattr("utils.config.load.DEFAULT_ENV", today)
    with pytest.raises(UserError, match="max_images: absent -> 100"):
        Run(config())


def test_a_run_that_is_over_holds_neither_its_folder_nor_its_network(config):
    run = finish(config())
    folder = weakref.ref(run.lock)
    del run
    gc.collect()
    assert folder() is None


def test_a_stage_that_is_taken_up_again_is_not_finished_until_its_end(config):
    run = finish(config())
    again, *_ = start(config("epochs=5"))
    next(again.epochs())
    assert not run.ending.exists()


def test_what_a_finished_stage_began_with_must_still_be_there(config, pretext):
    run = begin(config(), pretext(b"first"), images(4), images(2))
    for epoch in run.epochs():
        run.save(epoch)
    run.finish("nothing")
    for content, is_finished in ((b"first", True), (b"other", False)):
        run = Run(config())
        run.starts_from(pretext(content), "model.pth.tar")
        assert run.is_finished(lambda: None) == is_finished
