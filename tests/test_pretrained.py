"""Step 1 with a network that is trained already, or with ready features, and the steps that follow it."""

import csv
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torchvision
import yaml
from safetensors.torch import save_file

import eval as evaluation
import pretrained
import scan
import selflabel
import simclr
from data.loader.resident import ResidentLoader
from models.backbones.resnet import ResNet18
from tests import small_runs
from tests.own_pictures import write_digits
from tests.small_runs import same_weights, weights
from utils import mining
from utils.errors import UserError
from utils.report import figures, outputs, page
from utils.report.log import read_log, read_results
from utils.storage.files import read_manifest, sha256_of

MAINS = {"pretrained": pretrained.main, "scan": scan.main, "selflabel": selflabel.main}
FOLDERS = {"pretrained": "pretext", "scan": "scan", "selflabel": "selflabel"}
ADAM = {"optimizer": "adam", "optimizer_kwargs": {"lr": 0.001, "weight_decay": 0.0}, "scheduler": "constant"}
GREY = {"mean": [0.5] * 3, "std": [0.5] * 3}
RECIPES = {
    "pretrained": {"setup": "pretrained", "num_neighbors": 5},
    "scan": {
        **{"setup": "scan", "num_classes": 10, "num_heads": 2, "num_neighbors": 5, **ADAM},
        **{"criterion": "scan", "criterion_kwargs": {"entropy_weight": 5.0}, "epochs": 2, "batch_size": 64},
        **{"update_cluster_head_only": True, "augmentation_strategy": "plain"},
    },
    "selflabel": {
        **{"setup": "selflabel", "num_classes": 10, "num_heads": 1, "epochs": 1, "batch_size": 64, **ADAM},
        **{"criterion": "confidence-cross-entropy", "criterion_kwargs": {"apply_class_balancing": True}},
        **{"confidence_threshold": 0.15, "augmentation_strategy": "affine"},
        "augmentation_kwargs": {
            "random_affine": {"degrees": 9, "scale": [1, 1], "aspect": [1, 1], "shear": 0, "translate": 0},
            "normalize": GREY,
        },
    },
}
TEMI = {
    **{"criterion": "temi", "criterion_kwargs": {"beta": 0.6, "teacher_momentum": 0.9}},
    **{"head_form": "mlp", "optimizer": "adamw"},
}
VIEW, SMALL = "transformation_kwargs.crop_size=32", {"crop_size": 16, "normalize": GREY}
NETWORKS = {  # name: its settings, and how it is made
    "vit": (["backbone=timm:test_vit.r160_in1k", VIEW], lambda: timm.create_model("test_vit")),
    "mobilenet": (
        ["backbone=torchvision:mobilenet_v2", VIEW, "feature_pca=8"],
        lambda: torchvision.models.mobilenet_v2(num_classes=5),
    ),
    "resnet": (
        ["backbone=resnet18", "model_kwargs={width: 4, stem: cifar}", f"transformation_kwargs={SMALL}"],
        lambda: ResNet18("cifar", 4),
    ),
}
VIT = NETWORKS["vit"][0]


def run(stage, root, *settings, data_set="digits", recipe=None):
    """Run a stage in `root` as a user does; returns its folder."""
    path, content = root / f"{stage}.yml", recipe or RECIPES[stage]
    root.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({**content, "train_db_name": data_set, "val_db_name": data_set}))
    own = [f"root_dir={root}", "run_name=run", "device=cpu", "num_workers=0"]
    MAINS[stage](["--config_exp", str(path), *own, *settings])
    return root / "run" / FOLDERS[stage]


def settings_for(stage, settings):
    """Without what is not a setting of this stage."""
    return [word for word in settings if stage != "pretrained" or "feature_pca" not in word]


def evaluate(folder, *options):
    """eval.py on the model in a stage's folder."""
    config, model = folder / "config.yml", folder / "model.pth.tar"
    evaluation.main(["--config_exp", str(config), "--model", str(model), *options])


def error_of(function, *arguments, **options):
    """The message of the UserError, which is one line."""
    with pytest.raises(UserError) as error:
        function(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_weights(name, path):
    """A file of random weights with the classifier; returns them by the names that our models have."""
    torch.manual_seed(0)
    state = NETWORKS[name][1]().state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({f"module.{key}": value for key, value in state.items()}, path)
    return {f"backbone.{key}": value for key, value in state.items()}


@pytest.fixture(autouse=True)
def no_figures(no_pictures, monkeypatch):
    """They take longer than a run; those of images are drawn where a test asks for them."""
    for module, name in ((outputs, "matching_figure"), (page, "matching_figure"), (page, "curves_figure")):
        monkeypatch.setattr(module, name, lambda *_: None)


@pytest.fixture(scope="module")
def chains(tmp_path_factory):
    """chains(name): the folders of the stages of a network, which are run at the first call."""
    made = {}

    def chain(name):
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            file = root / ("weights.safetensors" if name == "vit" else "weights.pth")
            state, settings = write_weights(name, file), NETWORKS[name][0]
            with pytest.MonkeyPatch.context() as monkeypatch:
                small_runs.few_digits(monkeypatch)
                small_runs.without_pictures(monkeypatch)
                folders = {
                    stage: run(stage, root, *[f"weights={file}"][: stage == "pretrained"], *of_stage)
                    for stage in MAINS
                    for of_stage in [settings_for(stage, settings)]
                }
            made[name] = SimpleNamespace(root=root, file=file, state=state, settings=settings, **folders)
        return made[name]

    return chain


@pytest.fixture
def vit(chains, small_data):
    return chains("vit")


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("mobilenet", "resnet")]


# -- every stage


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("name", ["vit", *SLOW])
def test_every_stage_runs_on_a_network_that_was_trained_elsewhere(name, chains, tmp_path, capsys):
    chain = chains(name)
    pretext, scanned, labelled = map(weights, (chain.pretrained, chain.scan, chain.selflabel))
    assert pretext.keys() <= chain.state.keys() and len(pretext) > 50
    assert all(torch.equal(value, chain.state[key]) for key, value in pretext.items())
    assert {key.split(".")[0] for key in scanned} >= {"cluster_head"}
    assert labelled.keys() >= pretext.keys()  # whole: it was trained
    assert any(not torch.equal(labelled[key], value) for key, value in pretext.items())
    for split, number, topk in (("train", 206, 5), ("val", 52, 5)):
        assert np.load(chain.pretrained / f"topk-{split}-neighbors.npy").shape == (number, topk + 1)

    evaluate(chain.scan, "--out", str(tmp_path / "clusters.csv"), "--visualize_prototypes")
    assert (chain.scan / "prototypes.png").stat().st_size > 1000
    evaluate(chain.selflabel)
    evaluate(chain.pretrained)
    printed = capsys.readouterr().out
    assert all(f"{stage} model" in printed for stage in FOLDERS.values()) and "warning: other" not in printed
    rows = rows_of(tmp_path / "clusters.csv")
    assert len(rows) == 52 and {int(row["cluster"]) for row in rows} <= set(range(10))


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize(
    "name, labels",
    [
        ("vit", lambda targets: (targets + 1) % 10),
        pytest.param("vit", lambda _: None, marks=pytest.mark.slow),
        pytest.param("resnet", lambda targets: (targets + 1) % 10, marks=pytest.mark.slow),
    ],
)
def test_with_other_labels_or_none_the_weights_are_the_same_to_the_last_bit(
    name, labels, chains, tmp_path, monkeypatch
):
    chain = chains(name)
    small_runs.few_digits(monkeypatch, labels)
    run("pretrained", tmp_path, f"weights={chain.file}", *settings_for("pretrained", chain.settings))
    folder = run("scan", tmp_path, *chain.settings)
    assert same_weights(weights(folder), weights(chain.scan))


def test_a_finished_stage_runs_again_with_other_weights_only(vit, tmp_path, monkeypatch, capsys):
    def created(name, pretrained=False, **options):
        model = create(name, **options)
        if pretrained:
            number = len(states) - 1  # at first 1, then 2
            model.load_state_dict({key: vit.state[f"backbone.{key}"] + number for key in model.state_dict()})
        return model

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", created)
    states, digests = [], []
    for source in (vit.file, vit.file, "hub", "hub"):
        folder = run("pretrained", tmp_path, f"weights={source}", *VIT)
        states.append(weights(folder))
        digests.append(read_manifest(folder / "model.pth.tar")["made_from"]["weights"])
        assert digests[-1] in (folder / "log.jsonl").read_text()
    assert capsys.readouterr().out.count("is finished") == 1
    assert same_weights(states[0], states[1]) and digests[0] == digests[1] == sha256_of(vit.file)
    assert all(torch.equal(states[2][key], value + 1) for key, value in states[0].items())
    assert len(digests[2]) == 64 and len(set(digests)) == 3


def test_without_weights_nothing_is_begun_nor_downloaded(tmp_path, small_data, monkeypatch):
    create, asked = timm.create_model, []

    def created(name, pretrained=False, **options):
        asked.append(pretrained)
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", created)
    assert "weights=FILE" in error_of(run, "pretrained", tmp_path, *VIT)
    assert asked == [False] and not (tmp_path / "run").exists()


def test_weights_that_do_not_fit_leave_no_trace(vit, tmp_path):
    state = {"module.head.weight": torch.zeros(1), "module.other": torch.zeros(1)}
    torch.save(state, tmp_path / "weights.pth")
    message = error_of(run, "pretrained", tmp_path, f"weights={tmp_path / 'weights.pth'}", *VIT)
    assert "weights.pth" in message and "backbone." in message
    assert not (tmp_path / "run").exists()


# -- what the network sees


def test_the_view_that_the_weights_were_trained_for_is_saved_with_each_stage(vit):
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    expected = {"crop_size": 32, "resize": 33, "interpolation": "bicubic", "normalize": half}
    for stage in MAINS:
        saved = yaml.safe_load((getattr(vit, stage) / "config.yml").read_text())
        assert saved["transformation_kwargs"] == expected


def test_a_view_that_is_given_gives_other_features(vit, tmp_path):
    given = ["transformation_kwargs.resize=48", "transformation_kwargs.interpolation=bilinear"]
    folder = run("pretrained", tmp_path, f"weights={vit.file}", *VIT, *given)
    saved = yaml.safe_load((folder / "config.yml").read_text())["transformation_kwargs"]
    assert (saved["crop_size"], saved["resize"], saved["interpolation"]) == (32, 48, "bilinear")
    name = "topk-train-neighbors.npy"
    assert not np.array_equal(np.load(folder / name), np.load(vit.pretrained / name))


def test_a_crop_size_that_the_network_refuses_is_named_by_every_stage(vit, tmp_path):
    for stage in MAINS:
        start = [f"weights={vit.file}"] if stage == "pretrained" else [f"pretext_dir={vit.pretrained}"]
        if stage == "selflabel":
            start.append(f"scan_dir={vit.scan}")
        own = [*start, VIT[0], "transformation_kwargs.crop_size=30"]
        assert "transformation_kwargs.crop_size" in error_of(run, stage, tmp_path, *own)
    assert not (tmp_path / "run").exists()


def test_a_view_that_does_not_fit_the_images_leaves_no_trace(tmp_path, small_data):
    write_weights("resnet", tmp_path / "weights.pth")
    own = [f"weights={tmp_path / 'weights.pth'}", *NETWORKS["resnet"][0], VIEW]  # larger than the digits
    assert "crop_size 32" in error_of(run, "pretrained", tmp_path, *own)
    assert not (tmp_path / "run").exists()


def test_simclr_on_a_librarys_backbone_takes_its_view_too(tmp_path, monkeypatch):
    class Built(Exception):
        pass

    def build(cfg):
        assert cfg.transformation_kwargs.normalize == GREY and cfg.transformation_kwargs.crop_size == 32
        raise Built

    small_runs.few_digits(monkeypatch)
    monkeypatch.setattr(simclr, "build_model", build)
    content = yaml.safe_load(Path("configs/pretext/simclr_digits.yml").read_text())
    del content["transformation_kwargs"]
    path = tmp_path / "simclr.yml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(Built):
        simclr.main(["--config_exp", str(path), f"root_dir={tmp_path}", "device=cpu", "batch_size=64", *VIT])


# -- heads on a frozen backbone


def scan_from(vit, root, *settings, **options):
    return run("scan", root, f"pretext_dir={vit.pretrained}", *VIT, *settings, **options)


def test_a_scan_model_refers_to_a_librarys_backbone_and_holds_no_tensor_of_it(vit):
    content = torch.load(vit.scan / "model.pth.tar", weights_only=True)
    digest = sha256_of(vit.pretrained / "model.pth.tar")
    assert content["backbone"] == {"name": "timm:test_vit.r160_in1k", "sha256": digest}
    heads = {f"cluster_head.{head}.{kind}" for head in range(2) for kind in ("weight", "bias")}
    assert content["model"].keys() == heads and content["head"] in (0, 1)
    assert (vit.pretrained / "model.pth.tar").stat().st_size > 1_000_000
    for name in ("model", "checkpoint"):  # 2 heads of 64 x 10 floats, with Adam three times as much
        assert (vit.scan / f"{name}.pth.tar").stat().st_size < 50_000


def test_our_own_backbone_is_copied_into_the_scan_model(tmp_path, small_data):
    path, own = tmp_path / "weights.safetensors", NETWORKS["resnet"][0]
    state = write_weights("resnet", path)
    run("pretrained", tmp_path, f"weights={path}", *own)
    content = torch.load(run("scan", tmp_path, *own) / "model.pth.tar", weights_only=True)
    assert content.keys() == {"model", "head"}
    backbone = {name: value for name, value in content["model"].items() if name.startswith("backbone.")}
    assert same_weights(backbone, state)


@pytest.mark.slow
def test_a_librarys_backbone_that_is_trained_is_saved_with_its_heads(vit, tmp_path):
    views = ["augmentation_strategy=standard", "augmentation_kwargs.random_resized_crop.size=32"]
    views += ["augmentation_kwargs.random_resized_crop.scale=[0.5, 1]"]
    views += [f"augmentation_kwargs.normalize.{name}=[0.5, 0.5, 0.5]" for name in ("mean", "std")]
    folder = scan_from(vit, tmp_path, "update_cluster_head_only=False", "epochs=1", *views)
    content = torch.load(folder / "model.pth.tar", weights_only=True)
    assert content.keys() == {"model", "head"}
    assert content["model"].keys() > weights(vit.pretrained).keys()


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_bytes(b"other")])
def test_without_the_very_backbone_a_scan_model_asks_for_its_folder(change, vit, tmp_path):
    pretext = shutil.copytree(vit.pretrained, tmp_path / "pretext")
    change(pretext / "model.pth.tar")
    digest = sha256_of(vit.pretrained / "model.pth.tar")
    start = [f"pretext_dir={pretext}", f"scan_dir={vit.scan}", *VIT]
    for function, arguments in (
        (evaluate, (vit.scan, f"pretext_dir={pretext}")),
        (run, ("selflabel", tmp_path, *start)),
    ):
        message = error_of(function, *arguments)
        assert "pretext_dir=" in message and str(pretext) in message and digest[:8] in message
    assert not (tmp_path / "run").exists()


def unit_features(vit):
    """Of step 1: of the training images, (N, D)."""
    (path,) = vit.pretrained.glob("features-train*.npy")
    return torch.nn.functional.normalize(torch.from_numpy(np.load(path))[0], dim=1)


def test_feature_pca_standardises_the_features_of_the_training_images(vit, tmp_path):
    folder = scan_from(vit, tmp_path, "feature_pca=6", "head_choice=silhouette")
    state = weights(folder)
    features = unit_features(vit) @ state["standardize.weight"].T + state["standardize.bias"]
    assert features.shape == (206, 6)
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(6), atol=1e-4, rtol=0)
    assert features.square().mean().item() == pytest.approx(1, abs=1e-4)
    covariance = features.T @ features / len(features)
    torch.testing.assert_close(covariance, covariance.diag().diag(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("start", ["kmeans", "random"])
def test_heads_start_as_a_kmeans_each_or_at_random(start, vit, tmp_path):
    own = ["head_start=random"] * (start == "random")  # kmeans is what a frozen backbone gets
    state = weights(scan_from(vit, tmp_path, "optimizer_kwargs.lr=1e-30", "epochs=1", *own))
    (path,) = vit.pretrained.glob("features-train*.npy")
    features = torch.from_numpy(np.load(path))[0]
    heads = [[state[f"cluster_head.{head}.{kind}"] for kind in ("weight", "bias")] for head in range(2)]
    assert not torch.equal(heads[0][0], heads[1][0])
    for weight, bias in heads:
        probabilities = (features @ weight.T + bias).softmax(dim=1)
        confidence = probabilities.amax(dim=1).mean().item()
        assert (confidence == pytest.approx(0.9, abs=1e-3)) == (start == "kmeans")
        assert start == "random" or len(probabilities.argmax(dim=1).unique()) == 10


@pytest.mark.parametrize(
    "settings, words",
    [
        (["update_cluster_head_only=False", "feature_pca=8"], "feature_pca 8 update_cluster_head_only"),
        (["update_cluster_head_only=False", "head_start=kmeans"], "head_start update_cluster_head_only"),
        (["head_form=mlp", "head_start=kmeans"], "head_start kmeans head_form"),
        (["feature_pca=65"], "feature_pca 65 64"),
        (["augmentation_strategy=ours"], "augmentation_kwargs.crop_size"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, words, vit, tmp_path):
    message = error_of(scan_from, vit, tmp_path, *settings)
    assert all(word in message for word in words.split())
    assert not (tmp_path / "run").exists()


def test_of_step_1_the_features_are_taken_and_no_image_is_read_again(vit, tmp_path, monkeypatch):
    def read_again(_):
        raise AssertionError("an image is read")

    monkeypatch.setattr(ResidentLoader, "batches", read_again)
    folder = scan_from(vit, tmp_path, "num_heads=1")
    assert weights(folder).keys() == {"cluster_head.0.weight", "cluster_head.0.bias"}
    with pytest.raises(AssertionError):  # as new views would
        scan_from(vit, tmp_path / "other", "transformation_kwargs.resize=40")


class Stopped(Exception):
    pass


def stopped_in_epoch_2(criterion, vit, root, recipe):
    """The folder of a run of scan.py that was stopped there."""
    name = "train_epoch_temi" if criterion == "temi" else "train_epoch"
    train_epoch = getattr(scan, name)

    def stopping(task, meter, autocast):
        if meter.epoch == 1:
            raise Stopped
        return train_epoch(task, meter, autocast)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(scan, name, stopping)
        scan_from(vit, root, recipe=recipe)
    return root / "run" / "scan"


def content_of(folder, name):
    return torch.load(folder / f"{name}.pth.tar", weights_only=True)


@pytest.fixture(scope="module")
def temi(chains, tmp_path_factory):
    """Runs of TEMI: recipe, and the folders of a whole one and of one stopped in its second epoch."""
    root, vit, recipe = tmp_path_factory.mktemp("temi"), chains("vit"), RECIPES["scan"] | TEMI
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_runs.few_digits(monkeypatch)
        small_runs.without_pictures(monkeypatch)
        begun = stopped_in_epoch_2("temi", vit, root / "begun", recipe)
        whole = scan_from(vit, root / "whole", recipe=recipe)
    return SimpleNamespace(recipe=recipe, whole=whole, begun=begun)


@pytest.mark.parametrize("criterion", ["scan", "temi"])
def test_a_stopped_run_on_a_frozen_backbone_goes_on_and_ends_the_same(criterion, vit, temi, tmp_path):
    recipe, whole = (temi.recipe, temi.whole) if criterion == "temi" else (RECIPES["scan"], vit.scan)
    folder = stopped_in_epoch_2(criterion, vit, tmp_path, recipe)
    begun = content_of(folder, "checkpoint")
    assert begun["epoch"] == 1
    scan_from(vit, tmp_path, recipe=recipe)
    assert [line["epoch"] for line in read_log(folder / "log.jsonl") if "epoch" in line] == [1, 2]
    for name in ("model", "checkpoint"):
        first, second = content_of(whole, name)["model"], content_of(folder, name)["model"]
        assert same_weights(first, second), name
    assert not same_weights(begun["model"], first)


def test_a_checkpoint_of_temi_holds_the_trained_heads_their_average_and_the_marginal(temi):
    state = content_of(temi.whole, "checkpoint")["model"]
    assert {name.split(".")[0] for name in state} == {"cluster_head", "trained", "criterion"}
    assert not torch.equal(state["trained.0.mlp.0.weight"], state["cluster_head.0.mlp.0.weight"])
    marginal = state["criterion.marginal"]
    assert not torch.equal(marginal, torch.full((2, 10), 0.1))
    torch.testing.assert_close(marginal.sum(dim=1), torch.ones(2))


def test_the_model_of_temi_is_the_average_after_the_last_epoch(temi, vit, small_data):
    content, checkpoint = (content_of(temi.whole, name) for name in ("model", "checkpoint"))
    average = {name: each for name, each in checkpoint["model"].items() if name.startswith("cluster_head")}
    assert same_weights(content["model"], average)
    assert content["head"] == checkpoint["best_loss_head"]
    assert content["backbone"]["sha256"] == sha256_of(vit.pretrained / "model.pth.tar")
    evaluate(temi.whole)


def test_with_a_momentum_of_0_the_average_is_the_last_epochs_heads_however_good_the_epoch(
    temi, vit, small_data, tmp_path, monkeypatch
):
    small_runs.validation_losses_are(monkeypatch, [-2.0, -1.0])
    folder = scan_from(vit, tmp_path, "criterion_kwargs.teacher_momentum=0", recipe=temi.recipe)
    checkpoint, model = content_of(folder, "checkpoint"), content_of(folder, "model")
    assert checkpoint["best_loss"] == -1.0 and checkpoint["best_loss_head"] == model["head"]
    heads = {name: each for name, each in checkpoint["model"].items() if name.startswith("trained.")}
    heads = {name.replace("trained", "cluster_head"): each for name, each in heads.items()}
    assert same_weights(model["model"], heads)


def test_in_the_first_epoch_of_temi_the_directions_of_the_clusters_stay(temi):
    first, last = (content_of(each, "checkpoint")["model"] for each in (temi.begun, temi.whole))
    for kind in ("weight", "gain"):
        assert torch.equal(first[f"trained.0.{kind}"], first[f"cluster_head.0.{kind}"])
        assert not torch.equal(last[f"trained.0.{kind}"], first[f"trained.0.{kind}"])
    assert not torch.equal(first["trained.0.mlp.0.weight"], first["cluster_head.0.mlp.0.weight"])


# -- features that someone else has computed


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """60 digits as files, features that tell their classes, and labels; stages run without labels."""
    root = tmp_path_factory.mktemp("ready")
    labels = write_digits(root / "pictures", "train", every=24)
    names = list(labels)  # not in the order of their names
    assert names != sorted(names)
    noise = np.random.default_rng(0).normal(size=(len(names), 10))
    vectors = 3 * np.eye(10)[[int(labels[name]) for name in names]] + 0.1 * noise
    np.save(root / "features.npy", vectors.astype(np.float16))
    write_table(root / "files.csv", "path", names)
    write_table(root / "labels.csv", "path,label", [f'{name}",{labels[name]}' for name in names], close="")
    ready = SimpleNamespace(root=root, labels=labels, names=names, vectors=vectors)
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_runs.without_pictures(monkeypatch)
        for stage in ("pretrained", "scan"):
            folder = run_ready(ready, stage, root, f"folder.path={root / 'pictures'}")
            setattr(ready, stage, folder)
    return ready


def write_table(path, heading, rows, close='"'):
    path.write_text(f"{heading}\n" + "".join(f'"{row}{close}\n' for row in rows))


def run_ready(ready, stage, root, *settings):
    files = [f"folder.features={ready.root / 'features.npy'}", f"folder.files={ready.root / 'files.csv'}"]
    sizes = {"scan": ["batch_size=32", "epochs=5"]}.get(stage, [])
    return run(stage, root, "backbone=features", *files, *sizes, *settings, data_set="folder")


def test_features_go_through_every_stage_and_give_each_file_the_cluster_of_its_row(ready, tmp_path, capsys):
    out, report, whole = tmp_path / "clusters.csv", tmp_path / "page.html", "folder.val_share=0"
    labels = f"folder.labels={ready.root / 'labels.csv'}"
    evaluate(ready.scan, "--out", str(out), "--report", str(report), labels, whole)
    rows = rows_of(out)
    assert [row["path"] for row in rows] == ready.names
    assert {row["path"]: row["label"] for row in rows} == ready.labels
    pairs = {(row["label"], row["cluster"]) for row in rows}
    assert len(pairs) == 10 == len({cluster for _, cluster in pairs})  # each class is a cluster
    assert report.read_text().count("data:image/") >= 60 and "ACC" in capsys.readouterr().out
    content = torch.load(ready.scan / "model.pth.tar", weights_only=True)["model"]
    assert content["backbone.size"] == 10


def test_the_neighbors_are_those_of_the_features(ready, tmp_path):
    folder = run_ready(ready, "pretrained", tmp_path, "folder.val_share=0")
    neighbors = np.load(folder / "topk-train-neighbors.npy")
    unit = ready.vectors.astype(np.float16).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected = np.argsort(-(unit @ unit.T), axis=1)[:, :6]
    assert (np.sort(neighbors) == np.sort(expected)).mean() > 0.99  # ties aside


def test_labels_by_table_judge_and_change_no_weight(ready, tmp_path):
    for stage in ("pretrained", "scan"):
        own = [f"folder.path={ready.root / 'pictures'}", f"folder.labels={ready.root / 'labels.csv'}"]
        folder = run_ready(ready, stage, tmp_path, *own)
    assert same_weights(weights(folder), weights(ready.scan))
    results = read_results(folder / "log.jsonl")
    assert results["ACC"] == 1
    assert "ACC" not in read_results(ready.scan / "log.jsonl")


def test_without_the_pictures_step_1_leaves_out_the_figure_alone(ready, tmp_path, monkeypatch):
    monkeypatch.setattr(mining, "plot_neighbors", figures.plot_neighbors)
    folder = run_ready(ready, "pretrained", tmp_path)
    assert (folder / "finished.json").exists() and not (folder / "neighbors.png").exists()
    log = (folder / "log.jsonl").read_text()
    assert "neighbors.png is left out" in log and "and neighbors.png" not in log
    assert same_weights(weights(folder), weights(ready.pretrained))
    scanned = run_ready(ready, "scan", tmp_path)
    evaluate(scanned, "--out", str(tmp_path / "clusters.csv"))
    assert len(rows_of(tmp_path / "clusters.csv")) == 12  # a fifth of 60
    assert "folder.path=" in error_of(evaluate, scanned, "--visualize_prototypes")


def test_with_the_pictures_step_1_draws_them(ready, tmp_path, monkeypatch):
    monkeypatch.setattr(mining, "plot_neighbors", figures.plot_neighbors)
    folder = run_ready(ready, "pretrained", tmp_path, f"folder.path={ready.root / 'pictures'}")
    assert (folder / "neighbors.png").stat().st_size > 1000


def test_step_3_is_left_out(ready, tmp_path, capsys):
    folder = run_ready(ready, "selflabel", tmp_path)
    assert not folder.exists() and "step 3" in capsys.readouterr().out


def test_features_of_other_pictures_are_not_to_be_had(ready):
    assert "--predict" in error_of(evaluate, ready.scan, "--predict", str(ready.root / "pictures"))


def test_simclr_cannot_train_them(ready, tmp_path):
    own = ["train_db_name=folder", "val_db_name=folder", "backbone=features", f"root_dir={tmp_path}"]
    config = ["--config_exp", "configs/pretext/simclr_folder.yml"]
    assert "pretrained.py" in error_of(simclr.main, [*config, *own])


def arrays(ready):
    """Name of a mistake: the array that makes it."""
    vectors = ready.vectors.astype(np.float32)
    bad = vectors.copy()
    bad[3, 2] = np.nan
    return {
        "whole numbers": vectors.astype(np.int64),
        "one axis": vectors[:, 0],
        "three axes": vectors[None],
        "empty": vectors[:, :0],
        "objects": np.array([{"a": 1}], dtype=object),
        "too few": vectors[1:],
        "not finite": bad,
        "zeros": np.zeros_like(vectors),
    }


FAULTS = ["whole numbers", "one axis", "three axes", "empty", "objects", "too few", "not finite", "zeros"]


@pytest.mark.parametrize("fault", FAULTS)
def test_an_array_that_holds_no_features_for_these_images_is_refused(fault, ready, tmp_path):
    path = tmp_path / "wrong.npy"
    np.save(path, arrays(ready)[fault], allow_pickle=True)
    message = error_of(run_ready, ready, "pretrained", tmp_path, f"folder.features={path}")
    if fault not in ("not finite", "zeros"):
        assert str(path) in message
        assert not (tmp_path / "run").exists()
    if fault == "too few":
        assert "59" in message and "60" in message and str(ready.root / "files.csv") in message


@pytest.mark.parametrize(
    "settings, words",
    [
        (["folder.features=typo.npy"], "typo.npy"),
        (["folder.files=typo.csv"], "typo.csv"),
        (["val_db_name=digits"], "val_db_name digits folder"),
        (["val_db_name=stl-10"], "val_db_name stl-10 folder"),
        (["train_db_name=digits"], "train_db_name digits folder"),
    ],
)
def test_files_and_data_sets_that_do_not_fit_are_named(settings, words, ready, tmp_path):
    message = error_of(run_ready, ready, "pretrained", tmp_path, *settings)
    assert all(word in message.replace(",", " ").replace(":", " ").split() for word in words.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", ["pretrained", "scan", "eval"])
@pytest.mark.parametrize("key", ["features", "files"])
def test_a_place_that_is_not_given_is_named(key, stage, ready, tmp_path):
    if stage == "eval":
        content = yaml.safe_load((ready.scan / "config.yml").read_text())
        del content["folder"][key]
        (tmp_path / "scan.yml").write_text(yaml.safe_dump(content))
        command = ["--config_exp", str(tmp_path / "scan.yml"), "--model", str(ready.scan / "model.pth.tar")]
        assert f"folder.{key}" in error_of(evaluation.main, command)
        return
    other = {"features": "files", "files": "features"}[key]
    own = ["backbone=features", f"folder.{other}={ready.root / 'files.csv'}"]
    assert f"folder.{key}" in error_of(run, stage, tmp_path, *own, data_set="folder")


def test_other_features_than_in_step_1_are_refused(ready, tmp_path):
    np.save(tmp_path / "other.npy", ready.vectors.astype(np.float32) + 1)
    own = [f"pretext_dir={ready.pretrained}", f"folder.features={tmp_path / 'other.npy'}"]
    message = error_of(run_ready, ready, "scan", tmp_path, *own)
    assert "train images" in message and str(ready.pretrained) in message
