from pathlib import Path

import pytest
import torch

from data.dataset import ResidentDataset
from utils.config import load_config, save_config
from utils.errors import RunError, UserError
from utils.run.inputs import Handover, check_data_set, command_for, split_metadata
from utils.stages import MODEL, NEIGHBORS
from utils.storage.files import save_with_manifest, sha256_of

NAMES = (MODEL, *NEIGHBORS.values())


def dataset(count, value=0, targets=None):
    return ResidentDataset(torch.full((count, 3, 2, 2), value, dtype=torch.uint8), targets, [])


FACTS = {
    split: split_metadata("digits", split, dataset(count)) for split, count in (("train", 5), ("val", 3))
}


@pytest.fixture
def cfg(tmp_path):
    return load_config(None, "configs/scan/scan_digits.yml", [f"root_dir={tmp_path}"])


@pytest.fixture
def folder(tmp_path):
    """A pretext folder as simclr.py leaves it, its files some bytes."""
    folder = tmp_path / "digits" / "pretext"
    folder.mkdir(parents=True)
    save_with_manifest(folder / MODEL, b"weights", FACTS["train"])
    for split, name in NEIGHBORS.items():
        facts = {**FACTS[split], "topk": 2, "weights_sha256": sha256_of(folder / MODEL)}
        save_with_manifest(folder / name, b"neighbors", facts)
    return folder


def test_what_was_made_from_these_images_and_weights_is_accepted_and_digested(cfg, folder):
    handover = Handover(cfg, folder, NAMES)
    handover.check_data(FACTS)
    assert handover.unrecorded == []
    assert handover.digests == {name: sha256_of(folder / name) for name in NAMES}


def test_published_files_have_no_record_and_are_accepted_and_named(cfg, folder):
    for name in NAMES:
        (folder / f"{name}.json").unlink()
    handover = Handover(cfg, folder, NAMES)
    handover.check_data(FACTS)
    assert handover.unrecorded == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_with_the_command_that_makes_it(cfg, folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError) as error:
        Handover(cfg, folder, NAMES)
    message = str(error.value)
    assert message.startswith(f"{folder / name} not found, which scan.py starts from")
    given = (
        "" if name == MODEL else f" --model {folder / MODEL}"
    )  # a model that was not trained there is kept
    command = (
        f"python simclr.py --config_exp configs/pretext/simclr_digits.yml root_dir={folder.parents[1]}{given}"
    )
    assert f"`{command}`" in message
    assert "pretext_dir=" in message and "\n" not in message


def test_a_folder_with_a_checkpoint_needs_no_model_given_and_its_own_settings_are_in_the_command(cfg, folder):
    (folder / "checkpoint.pth.tar").write_bytes(b"of a training run")
    save_config(
        load_config(None, "configs/pretext/simclr_digits.yml", ["model_kwargs.width=8"]),
        folder / "config.yml",
    )
    (folder / NEIGHBORS["val"]).unlink()
    with pytest.raises(UserError) as error:
        Handover(cfg, folder, NAMES)
    command = f"python simclr.py --config_exp {folder / 'config.yml'} root_dir={folder.parents[1]}"
    assert f"`{command}`" in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_a_failure_of_the_storage(cfg, folder, name):
    (folder / name).write_bytes(b"w")
    with pytest.raises(RunError, match=rf"{name} \(1 bytes\) is damaged"):
        Handover(cfg, folder, NAMES)


def test_neighbors_mined_with_other_weights_are_stale_and_the_remedy_mines_again(cfg, folder):
    save_with_manifest(folder / MODEL, b"trained again", FACTS["train"])
    with pytest.raises(UserError, match=rf"train-neighbors\.npy is stale.*--model {folder / MODEL}`"):
        Handover(cfg, folder, NAMES)


@pytest.mark.parametrize(
    "split, name, other, told",
    [
        (
            "train",
            "digits",
            dataset(6),
            r"model.*made from 5 train images of digits.*has 6 train images of digits:",
        ),
        (
            "train",
            "digits",
            dataset(5, value=1),
            r"model.*5 train images of digits.*has 5 train images of digits, oth",
        ),
        (
            "train",
            "stl-10",
            dataset(5),
            r"model.*5 train images of digits, but this run has 5 train images of stl-10",
        ),
        (
            "val",
            "digits",
            dataset(3, value=1),
            r"val-neighbors.*3 val images of digits.*3 val images of digits, others",
        ),
    ],
    ids=["another number", "other pixels", "another data set", "other val images"],
)
def test_files_made_from_other_images_are_refused_telling_both(cfg, folder, split, name, other, told):
    facts = {**FACTS, split: split_metadata(name, split, other)}
    with pytest.raises(UserError, match=told) as error:
        Handover(cfg, folder, NAMES).check_data(facts)
    assert "--restart`" in str(error.value) and "\n" not in str(error.value)


def test_files_of_another_runs_folder_are_not_moved_aside_by_the_remedy(cfg, folder):
    cfg.run_name = "mine"
    with pytest.raises(UserError, match=r"run_name=mine` and give pretext_dir=.*mine/pretext") as error:
        Handover(cfg, folder, NAMES).check_data(
            {**FACTS, "train": split_metadata("digits", "train", dataset(6))}
        )
    assert "--restart" not in str(error.value)


def test_labels_are_no_part_of_the_facts_and_pixels_and_shape_are():
    same = split_metadata("digits", "train", dataset(5, targets=torch.arange(5)))
    assert (
        same
        == FACTS["train"]
        == {
            "data_set": "digits",
            "split": "train",
            "images": 5,
            "images_sha256": dataset(5).fingerprint,
        }
    )
    flat = ResidentDataset(torch.zeros(5, 3, 4, 1, dtype=torch.uint8), None, [])
    assert len({dataset(5).fingerprint, dataset(5, value=1).fingerprint, flat.fingerprint}) == 3


def test_a_model_of_another_data_set_is_refused_for_evaluation(cfg, folder):
    check_data_set(cfg, folder / MODEL)
    check_data_set(cfg, folder / "published.pth.tar")  # no record
    cfg.train_db_name = "stl-10"
    with pytest.raises(
        UserError, match="was trained on digits, but this config is for train_db_name: stl-10"
    ):
        check_data_set(cfg, folder / MODEL)


@pytest.mark.parametrize(
    "overrides, stage, place, command",
    [
        ([], "pretext", "results/digits/pretext", "simclr.py --config_exp configs/pretext/simclr_digits.yml"),
        ([], "scan", "results/digits/scan", "scan.py --config_exp configs/scan/scan_digits.yml"),
        (
            ["max_images=100"],
            "pretext",
            "out/mine/pretext",
            "simclr.py --config_exp configs/pretext/simclr_digits.yml max_images=100 root_dir=out run_name=mine",
        ),
        ([], "pretext", "pretext", "simclr.py --config_exp configs/pretext/simclr_digits.yml"),
        ([], "pretext", "/data/elsewhere", "simclr.py --config_exp configs/pretext/simclr_digits.yml"),
        (
            ["train_db_name=fashion-mnist"],
            "pretext",
            "results/fashion-mnist-small/pretext",
            "simclr.py --config_exp configs/pretext/simclr_fashion_mnist_small.yml",
        ),
        (
            ["train_db_name=imagenet_50"],
            "pretext",
            "results/imagenet_50/pretext",
            "moco.py --config_exp configs/pretext/moco_imagenet50.yml",
        ),
        (
            ["train_db_name=imagenet"],
            "scan",
            "results/imagenet/scan",
            "scan.py --config_exp configs/scan/scan_imagenet.yml",
        ),
        (
            ["train_db_name=imagenet"],
            "selflabel",
            "results/imagenet/selflabel",
            "selflabel.py --config_exp CONFIG run_name=imagenet",
        ),
    ],
)
def test_the_command_that_fills_a_folder(overrides, stage, place, command, tmp_path, monkeypatch):
    (tmp_path / "configs").symlink_to(Path("configs").absolute(), target_is_directory=True)
    monkeypatch.chdir(tmp_path)  # where no results lie, whose config would be named
    cfg = load_config(None, "configs/scan/scan_digits.yml", overrides)
    assert command_for(cfg, stage, Path(place)) == f"python {command}"
