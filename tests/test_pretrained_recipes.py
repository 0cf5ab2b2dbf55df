"""The commands for DINOv2 and CLIP as written, on small data sets in the official formats.

No hub is reachable: the networks have random weights and one block of twelve. View, feature size, neighbors,
heads and optimizer are those of the config files; the epochs are cut to one."""

import pytest
import timm
import torch

import eval as evaluation
import pretrained
import scan
from models.backbones.registry import BACKBONES
from tests.image_trees import write_imagenet
from tests.official_files import write_cifar10, write_stl10
from tests.own_pictures import write_digits
from utils.mypath import DATASET_FOLDERS

TRAIN, VAL = 64, 24
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]


def write_set(name, folder, monkeypatch):
    if name == "folder":
        write_digits(folder, "train", every=16)
    elif name == "imagenet":
        write_imagenet(folder, "imagenet_50", 2, 1)
    else:
        {"cifar10": write_cifar10, "stl10": write_stl10}[name](folder, monkeypatch, TRAIN, VAL)


@pytest.fixture
def shallow(monkeypatch):
    """timm builds vision transformers of one block."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *words, **options: create(*words, depth=1, **options))


@pytest.mark.parametrize("name", ["folder", "cifar10", "stl10", "imagenet"])
@pytest.mark.parametrize("kind", ["dinov2", "clip"])
def test_the_configs_of_pretrained_networks_go_from_images_to_clusters(
    kind, name, shallow, tmp_path, monkeypatch, capsys
):
    write_set(name, tmp_path / "data", monkeypatch)
    for _, variable in DATASET_FOLDERS.values():
        monkeypatch.setenv(variable, str(tmp_path / "data"))
    config = f"configs/pretext/{kind}_{name}.yml"
    settings = [f"root_dir={tmp_path / 'results'}", "run_name=run", "device=cpu", "num_workers=0"]
    settings += [f"folder.path={tmp_path / 'data'}"] * (name == "folder")

    def hub(backbone):
        torch.manual_seed(0)
        return timm.create_model(backbone.partition(":")[2], num_classes=0).state_dict()

    monkeypatch.setitem(BACKBONES, "timm", BACKBONES["timm"]._replace(hub=hub))
    pretrained.main(["--config_exp", config, *settings])
    folder = tmp_path / "results" / "run"
    saved = (folder / "pretext" / "config.yml").read_text()
    backbone = next(line for line in saved.splitlines() if line.startswith("backbone: ")).partition(" ")[2]

    small = ["epochs=1", "batch_size=40", "num_classes=10", "num_neighbors=5", "num_heads=2"]
    frozen = f"configs/scan/{name}_frozen.yml"
    scan.main(["--config_exp", frozen, *settings, f"backbone={backbone}", *small])
    own = folder / "scan"
    capsys.readouterr()
    evaluation.main(["--config_exp", str(own / "config.yml"), "--model", str(own / "model.pth.tar")])
    printed = capsys.readouterr().out
    assert "used_clusters" in printed and "step1_inertia_scan" in printed
    state = torch.load(own / "model.pth.tar", weights_only=True)
    assert not any(tensor.startswith("backbone.") for tensor in state["model"])
    assert state["backbone"]["name"] == backbone
