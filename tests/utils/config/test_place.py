"""The settings of a run mean the results tree in which they lie, wherever that is now."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from utils.config import load_config, save_config

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def stored(*overrides, stage="scan", folder=None):
    """A run's config.yml, beside its log as the run leaves it; returns its path."""
    cfg = load_config(None, CONFIGS / f"{stage}/{stage}_digits.yml", overrides)
    folder = Path(folder or Path(cfg.root_dir, cfg.run_name, stage))
    folder.mkdir(parents=True)
    (folder / "log.jsonl").touch()
    save_config(cfg, folder / "config.yml")
    return folder / "config.yml"


def places(path, *overrides):
    cfg = load_config(None, path, overrides)
    return tuple(str(cfg[key]) for key in ("root_dir", "run_name", "pretext_dir", "scan_dir"))


def test_what_follows_from_the_place_is_not_stored_and_comes_back():
    kept = yaml.safe_load(stored("root_dir=/tmp/never", folder="a/digits/scan").read_text())
    assert not kept.keys() & {"root_dir", "run_name", "pretext_dir", "scan_dir"}
    assert kept["batch_size"] == 256
    kept = yaml.safe_load(stored("run_name=mine", "scan_dir=/data/scan").read_text())
    assert kept.keys() & {"root_dir", "pretext_dir"} == set()
    assert (kept["run_name"], kept["scan_dir"]) == ("mine", "/data/scan")


RUNS = ["results/digits", "results/digits renamed", "elsewhere/digits", "/absolute"]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("given", [(), ("run_name=mine",), ("pretext_dir=results/digits/pretext",)], ids=str)
def test_a_tree_that_was_moved_copied_or_renamed_means_itself(run, given, tmp_path):
    old = stored(*given)
    new = Path(f"{tmp_path}{run}/deep" if run[0] == "/" else run) / "scan"
    if new != old.parent:
        new.parent.mkdir(parents=True)
        shutil.copytree(old.parent, new)  # the old one stays, and is not meant
    root, name = str(new.parents[1]), new.parent.name
    own = tuple(f"{root}/{name}/{stage}" for stage in ("pretext", "scan"))
    assert places(new / "config.yml") == (root, name, *own)


def test_the_place_is_told_from_the_working_directory_too(monkeypatch):
    path = stored(folder="results/digits/scan")
    monkeypatch.chdir(path.parent)
    assert places("config.yml") == ("../..", "digits", "../../digits/pretext", "../../digits/scan")
    assert places(Path("../scan/config.yml"))[:2] == ("../..", "digits")


def test_files_that_earlier_versions_wrote_with_all_folders_mean_their_place_as_well():
    path = stored(folder="moved/new name/scan")
    frozen = {"root_dir": "/old/results", "run_name": "digits"}
    frozen |= {f"{stage}_dir": f"/old/results/digits/{stage}" for stage in ("pretext", "scan")}
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | frozen))
    run = "moved/new name"
    own = ("moved", "new name", f"{run}/pretext", f"{run}/scan")
    assert places(path) == own
    shutil.move(path.parent, "moved/new name/scan.old-1")  # as a restart does
    assert places("moved/new name/scan.old-1/config.yml") == own


@pytest.mark.parametrize("name", ["scan.old-2", "scan (copy)", "scan - Copy", "scan-good"])
def test_a_stages_folder_that_was_renamed_in_its_run_means_that_run(name):
    path = stored(folder=f"store/mine/{name}")
    assert places(path) == ("store", "mine", "store/mine/pretext", "store/mine/scan")


def test_another_runs_folder_in_the_tree_goes_with_it_and_one_outside_stays():
    stored("run_name=ablation", "pretext_dir=results/digits/pretext", "scan_dir=shared/scan")
    shutil.move("results", "archive")
    shutil.move("archive/ablation", "archive/ablation 2")
    path = "archive/ablation 2/scan/config.yml"
    outside = os.path.abspath("shared/scan")
    assert places(path) == ("archive", "ablation 2", "archive/digits/pretext", outside)


def test_a_run_of_a_sweep_keeps_the_depth_of_its_name():
    name = "digits/sweep/num_classes=5,seed=0"
    stored(f"run_name={name}", "pretext_dir=results/digits/pretext")
    shutil.copytree("results/digits", "out/copy")
    path = "out/copy/sweep/num_classes=5,seed=0/scan/config.yml"
    assert places(path)[:3] == ("out", "copy/sweep/num_classes=5,seed=0", "out/copy/pretext")


def test_the_command_line_wins_over_the_place_and_the_place_over_the_environment():
    path = stored(folder="tree/digits/scan")
    Path("env.yml").write_text("root_dir: of-env")
    assert load_config("env.yml", path).root_dir == "tree"
    assert places(path, "root_dir=new")[:3] == ("new", "digits", "new/digits/pretext")
    assert places(path, "pretext_dir=p")[:3] == ("tree", "digits", "p")


PLACES = ["digits/scan/other.yml", "scan/backup/config.yml", "digits/pretext/config.yml"]


@pytest.mark.parametrize("place", PLACES)
def test_a_config_that_is_not_in_the_place_of_a_run_says_nothing_of_places(place):
    path = Path("tree", place)
    path.parent.mkdir(parents=True)
    (path.parent / "log.jsonl").touch()
    path.write_text("setup: scan\ntrain_db_name: digits\nroot_dir: mine")
    assert places(path)[:2] == ("mine", "digits")
    written_by_hand = Path("experiments/scan/config.yml")
    written_by_hand.parent.mkdir(parents=True)
    shutil.copy(path, written_by_hand)
    assert places(written_by_hand)[:2] == ("mine", "digits")


def test_a_folder_outside_the_tree_stays_even_if_the_working_directory_holds_both():
    path = stored("pretext_dir=shared/pretext")
    assert places(path)[:3] == ("results", "digits", os.path.abspath("shared/pretext"))
