import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.utils.run.toy_run import images
from utils.config import load_config, save_config
from utils.errors import RunError, UserError
from utils.mypath import written
from utils.run import inputs
from utils.run.command_line import stage_config
from utils.run.folder import RunFolder
from utils.run.inputs import (
    check_data_set,
    check_images,
    command_for,
    shell_line,
    split_metadata,
    verify_inputs,
)
from utils.stages import MODEL, NEIGHBORS
from utils.storage.files import save_with_manifest, sha256_of

NAMES = (MODEL, *NEIGHBORS.values())
SPLITS = {
    split: split_metadata("digits", split, images(count)) for split, count in (("train", 5), ("val", 3))
}
PRETEXT = "python simclr.py --config_exp configs/pretext/simclr_digits.yml"


@pytest.fixture
def cfg(tmp_path):
    return load_config(None, "configs/scan/scan_digits.yml", [f"root_dir={tmp_path}"])


@pytest.fixture
def folder(tmp_path):
    """A pretext folder as simclr.py leaves it, its files some bytes."""
    folder = tmp_path / "digits" / "pretext"
    folder.mkdir(parents=True)
    save_with_manifest(folder / MODEL, b"weights", SPLITS["train"])
    for split, name in NEIGHBORS.items():
        metadata = {**SPLITS[split], "topk": 2, "weights_sha256": sha256_of(folder / MODEL)}
        save_with_manifest(folder / name, b"neighbors", metadata)
    return folder


@pytest.mark.parametrize("published", [False, True])
def test_right_files_are_accepted_and_digested_and_those_without_a_manifest_named(cfg, folder, published):
    for name in NAMES if published else ():
        (folder / f"{name}.json").unlink()
    run = RunFolder(cfg, restart=False)
    assert run.start_from() == {name: folder / name for name in NAMES}
    check_images(cfg, run.manifests, SPLITS)
    assert run.inputs == {name: sha256_of(folder / name) for name in NAMES}
    without = [path for path, manifest in run.manifests.items() if not manifest]
    assert without == ([folder / name for name in NAMES] if published else [])


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_with_the_command_that_makes_it(cfg, folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match="pretext_dir=") as error:
        verify_inputs(cfg)
    given = "" if name == MODEL else f" --model {folder / MODEL}"  # a model that was not trained there stays
    assert f"`{PRETEXT} root_dir={folder.parents[1]}{given}`" in str(error.value)
    assert str(error.value).startswith(str(folder / name)) and "\n" not in str(error.value)


def test_a_folder_with_a_checkpoint_needs_no_model_given_and_its_own_settings_are_in_the_command(cfg, folder):
    (folder / "checkpoint.pth.tar").write_bytes(b"of a training run")
    own = load_config(None, "configs/pretext/simclr_digits.yml", ["model_kwargs.width=8"])
    save_config(own, folder / "config.yml")
    (folder / NEIGHBORS["val"]).unlink()
    with pytest.raises(UserError) as error:
        verify_inputs(cfg)
    assert f"`python simclr.py --config_exp {folder / 'config.yml'}`" in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_a_failure_of_the_storage(cfg, folder, name):
    (folder / name).write_bytes(b"w")
    with pytest.raises(RunError, match=rf"{name}.*1 bytes"):
        verify_inputs(cfg)


def test_neighbors_mined_with_other_weights_are_stale_and_the_remedy_mines_again(cfg, folder):
    save_with_manifest(folder / MODEL, b"trained again", SPLITS["train"])
    with pytest.raises(UserError, match=rf"train-neighbors\.npy.*--model {folder / MODEL}`"):
        verify_inputs(cfg)


@pytest.mark.parametrize(
    "split, name, other, told",
    [
        ("train", "digits", images(6), r"model.*5 train images of digits.*6 train images of digits"),
        ("train", "digits", images(5, value=1), r"model.*5 train images of digits.*other 5 train images"),
        ("train", "stl-10", images(5), r"model.*5 train images of digits.*5 train images of stl-10"),
        ("val", "digits", images(3, value=1), r"val-neighbors.*3 val images of digits.*other 3 val images"),
    ],
    ids=["another number", "other pixels", "another data set", "other val images"],
)
def test_files_made_from_other_images_are_refused_telling_both(cfg, folder, split, name, other, told):
    with pytest.raises(UserError, match=told) as error:
        check_images(cfg, verify_inputs(cfg), {**SPLITS, split: split_metadata(name, split, other)})
    assert "--restart`" in str(error.value) and "\n" not in str(error.value)


def test_files_of_another_runs_folder_are_not_moved_aside_by_the_remedy(cfg, folder):
    cfg.run_name = "mine"
    with pytest.raises(UserError, match=r"run_name=mine`.*pretext_dir=.*mine/pretext") as error:
        splits = {**SPLITS, "train": split_metadata("digits", "train", images(6))}
        check_images(cfg, verify_inputs(cfg), splits)
    assert "--restart" not in str(error.value)


def test_labels_are_no_part_of_the_metadata_and_pixels_are():
    labelled = split_metadata("digits", "train", images(5, targets=torch.arange(5)))
    digest = images(5).fingerprint
    assert labelled == {"data_set": "digits", "split": "train", "images": 5, "images_sha256": digest}
    assert images(5, value=1).fingerprint != digest


def test_a_model_of_another_data_set_is_refused_for_evaluation(cfg, folder):
    check_data_set(cfg, folder / MODEL)
    check_data_set(cfg, folder / "published.pth.tar")  # no manifest
    cfg.train_db_name = "stl-10"
    with pytest.raises(UserError, match=r"digits.*train_db_name: stl-10"):
        check_data_set(cfg, folder / MODEL)


SMALL = "python simclr.py --config_exp configs/pretext/simclr_fashion_mnist_small.yml"
MOCO = "python moco.py --config_exp configs/pretext/moco_imagenet50.yml"
SCAN = "python scan.py --config_exp configs/scan/scan_digits.yml"
SELFLABEL = "python selflabel.py --config_exp CONFIG"


@pytest.mark.parametrize(
    "overrides, place, command",
    [
        ([], "results/digits/pretext", PRETEXT),
        ([], "results/digits/scan", SCAN),
        (["max_images=9"], "out/mine/pretext", f"{PRETEXT} max_images=9 root_dir=out run_name=mine"),
        ([], "pretext", PRETEXT),
        (["train_db_name=fashion-mnist"], "results/fashion-mnist-small/pretext", SMALL),
        (["train_db_name=imagenet_50"], "results/imagenet_50/pretext", MOCO),
        (["train_db_name=imagenet"], "results/imagenet/selflabel", SELFLABEL),
    ],
)
def test_the_command_that_fills_a_folder(overrides, place, command, tmp_path, monkeypatch):
    (tmp_path / "configs").symlink_to(Path("configs").absolute(), target_is_directory=True)
    monkeypatch.chdir(tmp_path)  # where no results lie, whose config would be named
    monkeypatch.setattr(inputs, "SCRIPTS", tmp_path)
    cfg = load_config(None, "configs/scan/scan_digits.yml", overrides)
    assert command_for(cfg, Path(place).name, Path(place)).startswith(command)


@pytest.mark.parametrize("content", [b"", b"seed: 1", b"setup: scan", b"nope: 1", b"# f\xfcr mich"])
def test_the_command_passes_over_a_config_that_is_damaged_or_of_another_stage(content, tmp_path, monkeypatch):
    shutil.copytree("configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inputs, "SCRIPTS", tmp_path)
    folder = Path("results/digits/pretext")
    folder.mkdir(parents=True)
    for path in (folder / "config.yml", Path("configs/pretext/mine.yml")):
        path.write_bytes(content)
    cfg = load_config(None, "configs/scan/scan_digits.yml")
    assert command_for(cfg, "pretext", folder) == PRETEXT


def test_the_command_for_a_folder_elsewhere_leaves_the_place_to_the_user(cfg):
    cfg.root_dir = "results"
    assert command_for(cfg, "pretext", Path("/data/elsewhere")) == PRETEXT


ODD = ["my pics #1", "Trip: Rome", "it's [x]", "$HOME", "~", "'x'", "-x", "a`b`", "\udce4", "a\tb"]


def pasted(line):
    """The words that bash makes of a line."""
    told = subprocess.check_output(["bash", "-c", f"printf '%s\\0' {line}"])
    return told.decode(errors="surrogateescape").split("\0")[:-1]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("has_config", [True, False])
def test_the_command_for_a_folder_of_any_name_means_it(name, has_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # not that of the scripts
    configs = inputs.SCRIPTS / "configs"
    words = [f"run_name={name}", f"folder.path=./{name.replace('$', '$$')}", "db_root_dir.stl-10=/$$a"]
    cfg = load_config(None, configs / "scan/scan_folder.yml", words)
    folder, model = Path(name, name, "pretext"), Path(name, "model.pth.tar")
    if has_config:
        folder.mkdir(parents=True)
        save_config(load_config(None, configs / "pretext/simclr_folder.yml", words), folder / "config.yml")
    given = ("--model", written(model))
    python, script, *words = pasted(command_for(cfg, "pretext", folder, *given))
    made, options = stage_config(words, "simclr")
    assert (python, Path(script).resolve()) == ("python", inputs.SCRIPTS / "simclr.py")
    assert (Path(made.root_dir), made.run_name, options.model) == (Path(name), name, model)
    assert Path(made.folder.path) == Path(name) and made.db_root_dir == {"stl-10": "/$a"}


@pytest.mark.parametrize("place", ["pretext", "../pretext"])
def test_the_command_for_a_folder_beside_or_above_names_its_run(cfg, place, tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    _, _, *words = shlex.split(command_for(cfg, "pretext", Path(place)))
    made, _ = stage_config(words, "simclr")
    assert Path(made.root_dir, made.run_name, "pretext") == Path(place).resolve()


def test_a_line_for_the_shell_shows_all_that_a_terminal_hides():
    words = ["a b", "it's", "$x", "", "\t", "a\xa0\\n'", "\udce4 é"]
    line = shell_line(*words)
    assert line.isprintable() and pasted(line) == words
