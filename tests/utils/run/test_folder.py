"""The folder of a run: its settings, what it began with, and whether it is finished."""

from contextlib import nullcontext
from math import inf

import pytest
import torch

from tests.utils.run.toy_run import images, network_and_optimizer, train
from utils.config import load_config
from utils.errors import RunError, UserError
from utils.run.checkpoints import load_checkpoint
from utils.run.folder import RunFolder
from utils.run.run import Run
from utils.stages import MODEL, NEIGHBORS
from utils.storage.files import read_manifest, sha256_of

PRETEXT = "configs/pretext/simclr_digits.yml"


@pytest.mark.parametrize(
    "name, path, place",
    [
        ("run_name=mine", "configs/pretext/moco_imagenet50.yml", "mine/pretext"),
        ("run_name=mine", "configs/selflabel/selflabel_digits.yml", "mine/selflabel"),
        ("seed=1", "configs/scan/scan_digits.yml", "digits/scan"),
    ],
)
def test_the_folder_is_named_after_the_run_or_its_data_set_and_the_stage(config, tmp_path, name, path, place):
    assert RunFolder(config(name, path=path), False).path == tmp_path / place


# -- settings


@pytest.mark.parametrize("lost", ["nothing", "checkpoint.pth.tar"])
def test_another_config_in_the_folder_of_a_checkpoint_is_refused_naming_folder_and_keys(config, lost):
    train(config(), epochs=2)
    folder = RunFolder(config(), False).path
    (folder / lost).unlink(missing_ok=True)  # a kill may leave only the checkpoint before
    with pytest.raises(UserError, match=r"run_name=.*--restart") as error:
        RunFolder(config("batch_size=64", "optimizer_kwargs.lr=0.5"), False)
    values = ("batch_size: 256 -> 64", "optimizer_kwargs.lr: 0.001 -> 0.5")
    assert all(word in str(error.value) for word in (str(folder), *values)) and "\n" not in str(error.value)


def test_settings_are_compared_again_with_a_run_that_came_and_went_meanwhile(config):
    late = Run(config("seed=1"))
    train(config(), epochs=1)
    before = late.folder.checkpoint.read_bytes()
    with pytest.raises(UserError, match="seed: 0 -> 1"), late:
        late.restore(*network_and_optimizer())
    assert late.folder.checkpoint.read_bytes() == before
    train(config(), epochs=1)  # the lock is free


def test_a_long_list_of_differences_is_cut(config):
    train(config(), epochs=1)
    with pytest.raises(UserError) as error:
        RunFolder(config("run_name=digits", path="configs/scan/scan_cifar10.yml"), False)
    assert "train_db_name: digits -> cifar-10" in str(error.value) and len(str(error.value)) < 700


def test_settings_of_today_do_not_stand_in_for_those_the_run_began_with(config, monkeypatch, tmp_path):
    train(config(), epochs=1)
    today = tmp_path / "env.yml"
    today.write_text("max_images: 100")
    monkeypatch.setattr("utils.config.load.DEFAULT_ENV", today)
    with pytest.raises(UserError, match="max_images: absent -> 100"):
        RunFolder(config(), False)


def test_another_config_may_take_a_folder_that_holds_no_checkpoint(config):
    with RunFolder(config(), False).claimed():
        RunFolder(config(), False).open()
    assert RunFolder(config("batch_size=64"), False)


def test_a_restart_may_change_the_settings_and_moves_the_old_runs_aside_in_turn(config, tmp_path):
    for overrides in ((), ("batch_size=64",), ("batch_size=32",)):
        with Run(config(*overrides), restart=True) as run:
            run.restore(*network_and_optimizer())
    sizes = {
        path.name: load_config(None, path / "config.yml").batch_size for path in run.path.parent.glob("s*")
    }
    assert sizes == {"scan.old-1": 256, "scan.old-2": 64, "scan": 32}


def test_a_name_for_the_old_run_that_is_taken_meanwhile_is_left_alone(config, monkeypatch):
    """As where two machines begin anew at once: each look finds the name free."""
    path = RunFolder(config(), False).path
    for name in ("scan", "scan.old-1", "scan.old-2"):
        (path.parent / name).mkdir(parents=True)
        (path.parent / name / "notes.txt").write_text(name)
    with RunFolder(config(), True).claimed():
        left = {folder.name: (folder / "notes.txt").read_text() for folder in path.parent.glob("scan.old-*")}
    assert left == {"scan.old-1": "scan.old-1", "scan.old-2": "scan.old-2", "scan.old-3": "scan"}


def test_a_run_whose_folder_another_machine_takes_stops_before_its_next_checkpoint(config):
    def taken_in_the_second_epoch(epoch, step):
        if epoch == 1:
            lock.write_text("held by process 1 on elsewhere 0a1b2c3d; 12")

    lock = RunFolder(config(), False).path.with_name(".scan.lock")
    with pytest.raises(RunError, match="elsewhere"):
        train(config(), after_batch=taken_in_the_second_epoch)
    assert load_checkpoint(RunFolder(config(), False).checkpoint)[0]["epoch"] == 1


def test_a_restart_moves_nothing_aside_while_another_run_works_in_the_folder(config, tmp_path):
    with Run(config()) as run:
        run.restore(*network_and_optimizer())
        with pytest.raises(UserError, match="run_name="), RunFolder(config(), True).claimed():
            pass
        assert (run.path / "config.yml").is_file() and not (tmp_path / "digits" / "scan.old-1").exists()


def test_what_a_killed_run_left_half_written_is_cleared_and_nothing_of_others(config):
    folder = RunFolder(config(), False)
    folder.path.mkdir(parents=True)
    for name in (MODEL, "checkpoint.pth.tar.json", "finished.json", "report.html"):
        (folder.path / f"{name}.7.part").write_bytes(b"half")
    with folder.claimed():
        assert [path.name for path in folder.path.iterdir()] == ["report.html.7.part"]


def test_a_file_in_the_folders_place_is_a_failure_of_the_storage(config, tmp_path):
    (tmp_path / "digits").write_bytes(b"")
    with pytest.raises(RunError, match="digits/scan"), RunFolder(config(), False).claimed():
        pass


# -- what the run began with


@pytest.fixture
def pretext(tmp_path):
    """A pretext folder whose files are some bytes; the model's can be chosen."""

    def write(weights):
        folder = tmp_path / "digits" / "pretext"
        folder.mkdir(parents=True, exist_ok=True)
        for name in (MODEL, *NEIGHBORS.values()):
            (folder / name).write_bytes(weights if name == MODEL else b"neighbors")

    return write


def begin(cfg, train_set, val_set):
    """Train one more epoch."""
    with Run(cfg) as run:
        run.folder.start_from()
        run.folder.use_images(train_set, val_set)
        run.restore(*network_and_optimizer())
        run.end_epoch(next(run.epochs()), {})
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
def test_a_run_goes_on_only_with_what_it_began_with_and_notes_what_has_no_manifest(
    config, pretext, weights, train_set, val_set, changed
):
    pretext(b"first")
    begin(config(), images(4), images(2))
    run = begin(config(), images(4), images(2))
    assert run.checkpoints.finished == 2
    assert "pretext/model.pth.tar has no manifest" in (run.path / "log.jsonl").read_text()
    pretext(weights)
    with pytest.raises(UserError, match=rf"{changed}.*--restart"):
        begin(config(), train_set, val_set)


def test_model_and_neighbors_carry_data_set_split_counts_and_fingerprints(config):
    folder = RunFolder(config(path=PRETEXT), False)
    folder.use_images(images(4), images(2))
    folder.path.mkdir(parents=True)
    folder.save_model({"weight": torch.ones(3)})
    folder.save_neighbors("val", b"neighbors", 1)
    model, neighbors = folder.path / MODEL, folder.path / NEIGHBORS["val"]
    train_images, val_images = images(4).fingerprint, images(2).fingerprint
    assert read_manifest(model) == {
        **{"sha256": sha256_of(model), "bytes": model.stat().st_size, "holds": "model of simclr"},
        **{"data_set": "digits", "split": "train", "images": 4, "images_sha256": train_images},
        "made_from": {"train images": train_images, "val images": val_images},
    }
    assert read_manifest(neighbors) == {
        **{"sha256": sha256_of(neighbors), "bytes": 9, "holds": "nearest neighbors"},
        **{"data_set": "digits", "split": "val", "images": 2, "images_sha256": val_images},
        **{"topk": 1, "weights_sha256": sha256_of(model)},
    }


def test_weights_given_for_a_training_replace_no_model_that_was_trained_there(config, tmp_path):
    cfg = config(path=PRETEXT)
    train(cfg, epochs=1)
    other = tmp_path / "other.pth.tar"
    other.write_bytes(b"weights")
    with pytest.raises(UserError, match=r"other\.pth\.tar.*--restart"):
        RunFolder(cfg, False).start_from_weights(other, {})
    RunFolder(cfg, False).start_from_weights(RunFolder(cfg, False).checkpoint, {})  # its own
    RunFolder(cfg, True).start_from_weights(other, {})


# -- the best model so far, of SCAN


def test_the_loss_of_a_model_is_in_its_manifest_and_there_is_none_without_a_whole_model(config):
    folder = RunFolder(config(), False)
    folder.use_images(images(4), images(2))
    folder.path.mkdir(parents=True)
    assert folder.loss_of_model(-3.0) == inf
    folder.save_model({"head": 1}, loss=-1.0 / 3)
    assert folder.loss_of_model(-3.0) == -1.0 / 3
    manifest = folder.path / f"{MODEL}.json"
    (folder.path / MODEL).write_bytes(b"of a kill between the two renames")
    assert folder.loss_of_model(-3.0) == inf
    manifest.unlink()
    assert folder.loss_of_model(-3.0) == -3.0


# -- the end


def finish(cfg):
    with Run(cfg) as run:
        run.folder.use_images(images(4), images(2))
        model, optimizer = network_and_optimizer()
        run.restore(model, optimizer)
        for epoch in run.epochs():
            run.end_epoch(epoch, {})
            assert not run.is_finished()
        run.folder.save_model(model.state_dict())
        run.finish("the model")
    return run


def is_finished(cfg, restart=False, value=0):
    run = Run(cfg, restart)
    run.folder.use_images(images(4, value), images(2))
    return run.is_finished()


def test_a_finished_stage_says_so_and_writes_nothing(config, capsys):
    run = finish(config())
    capsys.readouterr()
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    assert is_finished(config())
    assert str(run.path) in capsys.readouterr().out
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before


def test_a_finished_stage_is_not_finished_for_other_settings_images_or_files(config):
    run = finish(config())
    assert not is_finished(config("epochs=5"))
    assert not is_finished(config(), restart=True)
    assert not is_finished(config(), value=1)
    (run.path / "config.yml").unlink()
    assert is_finished(config())
    assert not is_finished(config("seed=1"))
    model = (run.path / MODEL).read_bytes()
    for change in (lambda path: path.write_bytes(b"other"), lambda path: path.unlink()):
        change(run.path / MODEL)
        assert not is_finished(config())
    (run.path / MODEL).write_bytes(model)
    (run.path / "finished.json").write_bytes((run.path / "finished.json").read_bytes()[:-9])
    assert not is_finished(config())


def test_more_neighbors_than_were_mined_leave_something_to_do(config):
    finish(config(path=PRETEXT))
    assert is_finished(config(path=PRETEXT))
    assert not is_finished(config("num_neighbors=21", path=PRETEXT))


def test_a_finished_stage_without_its_checkpoints_keeps_to_its_settings_and_its_model(config):
    run = finish(config())
    for path in run.path.glob("*checkpoint*"):
        path.unlink()
    model = (run.path / MODEL).read_bytes()
    assert is_finished(config())
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        Run(config("seed=1"))
    with pytest.raises(UserError, match=r"checkpoint.*--restart"):
        finish(config("epochs=9"))
    assert (run.path / MODEL).read_bytes() == model


def test_a_stage_that_goes_on_is_not_finished_until_its_end(config):
    finish(config())
    run = finish(config("epochs=5"))  # asserts it after each epoch
    assert run.checkpoints.finished == 5 and is_finished(config("epochs=5"))


def test_a_finished_stage_began_with_files_that_must_still_be_the_same(config, pretext):
    pretext(b"first")
    with Run(config()) as run:
        run.folder.start_from()
        run.folder.use_images(images(4), images(2))
        run.restore(*network_and_optimizer())
        run.finish("nothing")
    for content, expected in ((b"first", True), (b"other", False)):
        pretext(content)
        again = RunFolder(config(), False)
        again.start_from()
        again.use_images(images(4), images(2))
        assert again.is_finished() == expected


@pytest.mark.parametrize("stage", ["pretext/simclr", "scan/scan", "selflabel/selflabel"])
def test_a_model_without_checkpoint_is_not_replaced_but_for_one_that_a_killed_scan_left(config, stage):
    cfg = config(path=f"configs/{stage}_digits.yml")
    folder = RunFolder(cfg, False)
    folder.path.mkdir(parents=True)
    (folder.path / MODEL).write_bytes(b"published")
    with pytest.raises(UserError, match="checkpoint"):
        train(cfg)
    assert (folder.path / MODEL).read_bytes() == b"published"
    folder.use_images(images(4), images(2))
    folder.save_model({})
    with nullcontext() if stage == "scan/scan" else pytest.raises(UserError, match="checkpoint"):
        train(cfg, epochs=1)
