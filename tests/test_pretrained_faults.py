"""Users' mistakes with pretrained backbones, ready features, frozen heads: one line, nothing written.

What is unusual but right is here, too. The backbone is timm's smallest transformer, untrained, on 206 + 52
digits of 32 pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pretrained
import scan
import simclr
from models import build_model, head_choice
from utils.config import load_config
from utils.run.command_line import command

timm = pytest.importorskip("timm")

VIEW = ("transformation_kwargs.crop_size=32", "transformation_kwargs.resize=32")
VIT = ("backbone=timm:test_vit", *VIEW)
DIGITS = ("train_db_name=digits", "val_db_name=digits", "run_name=digits", "device=cpu", "num_neighbors=10")
FROZEN = "configs/scan/fashion_mnist_frozen.yml"
TEMI = "configs/scan/fashion_mnist_temi.yml"


@pytest.fixture(scope="module")
def state():
    return timm.create_model("test_vit").state_dict()


@pytest.fixture
def weights(state, tmp_path):
    """weights(content): the setting for a file with this content, by default the state dict."""

    def file(content=state):
        torch.save(content, tmp_path / "vit.pth")
        return f"weights={tmp_path / 'vit.pth'}"

    return file


@pytest.fixture
def give(small_data, tmp_path, capsys):
    """give(main, config, settings): a command to its end, its exit code and stderr. One that fails leaves
    nothing."""

    def to_the_end(main, config, *settings):
        root, code = tmp_path / "results", 0
        before = sorted(root.rglob("*"))
        try:
            command(lambda: main(["--config_exp", config, f"root_dir={root}", *settings]))
        except SystemExit as end:
            code = end.code
        left = [path for path in sorted(root.rglob("*")) if path not in before and path.suffix != ".lock"]
        assert code == 0 or not [path for path in left if path.is_file() and "scans" not in path.parts]
        return code, capsys.readouterr().err

    return to_the_end


def pretrain(give, *settings):
    return give(pretrained.main, "configs/pretext/mobilenetv2_fashion_mnist.yml", *DIGITS, *settings)


def train_heads(give, config, *settings):
    fixed = ("num_neighbors=5", "epochs=1", "batch_size=64", "feature_pca=16", "num_heads=2")
    return give(scan.main, config, *DIGITS, *VIT, *fixed, *settings)


def assert_one_line(ended, *words):
    code, err = ended
    assert (code, err.count("\n"), err[:7]) == (2, 1, "error: "), ended
    assert [word for word in words if word not in err] == [], err


# -- the backbone and its weights


@pytest.mark.parametrize("tag", ["r160_in2k", "", "r160_in1k.more"])
def test_a_misspelt_tag_of_timm_names_the_right_one(give, weights, tag):
    ended = pretrain(give, f"backbone=timm:test_vit.{tag}", weights())
    assert_one_line(ended, f"timm:test_vit.{tag}:", "the nearest is test_vit")


@pytest.mark.parametrize("name", ["state_dict", "model", "model_state", "teacher"])
def test_weights_are_found_under_any_name_in_the_file(give, weights, state, name):
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}
    content = {"epoch": 3, name: state, "optimizer": optimizer}
    assert pretrain(give, *VIT, weights(content)) == (0, "")


def test_of_two_models_in_a_file_none_is_taken(give, weights, state):
    ended = pretrain(give, *VIT, weights({"student": state, "teacher": state}))
    assert_one_line(ended, "vit.pth does not fit the config")


@pytest.mark.filterwarnings("error")
def test_a_network_of_torchvision_is_built_without_warnings(give, weights):
    ended = pretrain(give, "backbone=torchvision:googlenet", *VIEW, weights())
    assert_one_line(ended, "vit.pth does not fit the config")


def test_inception_networks_take_the_images_that_their_weights_were_made_for():
    settings = ["backbone=torchvision:googlenet", *DIGITS, *VIEW]
    cfg = load_config(None, "configs/pretext/mobilenetv2_fashion_mnist.yml", settings)
    assert build_model(cfg).backbone.transform_input


def test_simclr_trains_a_backbone_of_timm_in_the_view_that_scan_takes(give, tmp_path):
    normalize = [f"augmentation_kwargs.normalize.{name}=[0.5,0.5,0.5]" for name in ("mean", "std")]
    crop = [f"augmentation_kwargs.random_resized_crop.{each}" for each in ("size=32", "scale=[0.4,1]")]
    settings = (*DIGITS, *VIT, *normalize, *crop, "epochs=1", "batch_size=64")
    assert give(simclr.main, "configs/pretext/simclr_digits.yml", *settings)[0] == 0
    trained = load_config(None, tmp_path / "results/digits/pretext/config.yml").transformation_kwargs
    assert trained.interpolation == "bicubic"


# -- heads on frozen features


def test_k_means_starts_linear_heads_only(give):
    ended = train_heads(give, FROZEN, "head_start=kmeans", "head_form=mlp")
    assert_one_line(ended, "head_start is kmeans", "head_form: linear")


@pytest.mark.parametrize("setting", ["feature_pca=8", "head_start=kmeans", "cached_views=2"])
def test_what_is_for_a_frozen_backbone_is_refused_without_one(give, setting):
    own = Path(__file__).parents[1] / "configs/scan/scan_digits.yml"
    name, value = setting.split("=")
    ended = give(scan.main, str(own), "update_cluster_head_only=False", setting)
    assert_one_line(ended, f"{name} is {value}", "update_cluster_head_only: True")


def test_the_most_distinct_of_all_heads_is_chosen_with_temi(give, weights, tmp_path, monkeypatch):
    assert pretrain(give, *VIT, weights())[0] == 0
    scores = iter([0.1, 0.2, 0.9, 0.3])
    monkeypatch.setattr(head_choice, "silhouette", lambda *_: next(scores))
    assert train_heads(give, TEMI, "num_heads=4", "head_choice=silhouette") == (0, "")
    assert torch.load(tmp_path / "results/digits/scan/model.pth.tar", weights_only=True)["head"] == 2


# -- ready features


@pytest.fixture
def ready(tmp_path, give):
    """ready(features, main, names): a command on these features of 60 images."""
    for number in range(60):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"pictures/{number}.png")

    def command_on(features, main=pretrained.main, names="{}.png"):
        config = f"configs/{'scan/folder_frozen' if main is scan.main else 'pretext/dinov2_folder'}.yml"
        np.save(tmp_path / "features.npy", features)
        lines = ["path", *(names.format(number) for number in range(60))]
        (tmp_path / "files.csv").write_text("\n".join(lines))
        folder = {"features": "features.npy", "files": "files.csv", "path": "pictures"}
        places = [f"folder.{key}={tmp_path / name}" for key, name in folder.items()]
        batch = ["num_classes=3", "batch_size=20", "epochs=1"] if main is scan.main else []
        fixed = ("backbone=features", "run_name=ready", "num_neighbors=5", "folder.val_share=0", "device=cpu")
        return give(main, config, *fixed, *places, *batch)

    return command_on


def random_rows(size=70):
    return np.random.default_rng(0).normal(size=(60, size)).astype(np.float32)


def test_features_in_fortran_order_give_the_same_neighbors(ready, tmp_path):
    neighbors = tmp_path / "results/ready/pretext/topk-train-neighbors.npy"
    found = []
    for order in "CF":
        assert ready(np.array(random_rows(), order=order)) == (0, "")
        found.append(np.load(neighbors))
    assert (found[0] == found[1]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, 1e300, 0.0], ids=str)
def test_a_row_that_is_no_direction_is_named_before_anything_is_written(ready, value):
    rows = random_rows().astype(np.float64)
    rows[7] = value
    assert_one_line(ready(rows), "features.npy: 1 of 60 rows", "row 7 ")


def test_images_that_are_not_in_the_folder_are_named_before_anything_is_written(ready):
    ended = ready(random_rows(), names="elsewhere/{}.png")
    assert_one_line(ended, "60 of 60 images", "elsewhere/0.png", "folder.path=")


def test_equal_features_of_all_images_have_no_principal_axes(ready):
    same = np.tile(random_rows()[:1], (60, 1))
    assert ready(same)[0] == 0
    ended = ready(same, scan.main)
    assert_one_line(ended, "features of all 60 images are the same")
