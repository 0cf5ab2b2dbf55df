"""ImageNet's commands one after another, on few JPEG files and with a narrow network in MoCo's format.

The configs are the published ones. A ResNet-18 stands for the ResNet-50 and the views are small, except in
the slow run of the whole thing."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
from torchvision.transforms import functional as pillow

import eval as evaluation
import moco
from data import dataset as image_files
from data.datasets.imagenet import FOLDERS
from models import build_model
from models.backbones.resnet import resnet50
from models.heads import ContrastiveModel
from tests import imagenet_runs
from tests.image_trees import write_imagenet
from tests.imagenet_runs import CONFIGS, IDS, MAINS, NARROW, SIZE, mocos, network, with_statistics
from tests.small_runs import replace_training, same_weights, weights
from utils.config import load_config
from utils.errors import UserError
from utils.report.log import read_log, read_results

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TRAIN, VAL = "topk-train-neighbors.npy", "topk-val-neighbors.npy"
LOW = "confidence_threshold=0.02"


@pytest.fixture
def mined(imagenet):
    """The folder that moco.py leaves."""
    return imagenet / "results" / "imagenet_50" / "pretext"


@pytest.fixture
def run(mined, tmp_path, no_pictures):
    """run(stage, more): a stage with results in `tmp_path`; returns its folder."""

    def run(stage: str, more: str = "") -> Path:
        imagenet_runs.run(stage, mined.parent, f"root_dir={tmp_path} {more}")
        return tmp_path / "imagenet_50" / ("pretext" if stage == "moco" else stage)

    return run


@pytest.fixture
def reads(monkeypatch):
    """The image files that loaders read."""
    paths, read = [], image_files.read_image
    monkeypatch.setattr(image_files, "read_image", lambda *how: paths.append(how[0]) or read(*how))
    return paths


def plain_views(imagenet, split):
    """(N, 3, SIZE, SIZE) by torchvision, in the order of the class list."""
    views = []
    for class_id in IDS:
        for path in sorted((imagenet / "images" / FOLDERS[split] / class_id).glob("*.JPEG")):
            image = pillow.center_crop(pillow.resize(Image.open(path).convert("RGB"), 256), SIZE)
            views.append(pillow.normalize(pillow.to_tensor(image), MEAN, STD))
    return torch.stack(views)


def assert_nearest(path, features, topk):
    """The file holds each image, then its nearest by these features, (N, D), of unit length."""
    neighbors = torch.from_numpy(np.load(path))
    assert neighbors.dtype == torch.int64 and neighbors.shape == (len(features), topk + 1)
    assert torch.equal(neighbors[:, 0], torch.arange(len(features)))
    similarity = (features @ features.T).fill_diagonal_(torch.inf)
    found, best = similarity.gather(1, neighbors), similarity.topk(topk + 1, dim=1).values
    assert torch.allclose(found[:, 1:], best[:, 1:], atol=1e-6)


# -- moco.py


def test_moco_mines_50_and_5_neighbors_by_backbone_features_before_the_mlp(mined, imagenet):
    for split, name, topk in (("train", TRAIN, 50), ("val", VAL, 5)):
        with torch.no_grad():
            features = network().backbone(plain_views(imagenet, split)).double()
        assert_nearest(mined / name, torch.nn.functional.normalize(features, dim=1), topk)


def test_features_after_the_mlp_are_mined_on_request(run, imagenet):
    with torch.no_grad():
        features = network()(plain_views(imagenet, "val")).double()
    assert_nearest(run("moco", "feature_layer=head") / VAL, features, 5)


def test_moco_keeps_the_weights_head_included_and_says_their_sha256(mined, imagenet):
    assert same_weights(weights(mined), network().state_dict())
    digest = hashlib.sha256((imagenet / "moco.pth.tar").read_bytes()).hexdigest()
    assert digest in (mined / "log.jsonl").read_text()


def test_moco_again_says_that_it_is_finished_and_more_neighbors_come_from_the_cached_features(
    run, reads, capsys
):
    folder = run("moco")
    assert len(reads) == 150 + 2  # and the first of each split, to see that the views fit
    run("moco")
    assert f"{folder} is finished" in capsys.readouterr().out
    before = np.load(folder / TRAIN)
    reads.clear()
    run("moco", "num_neighbors=60")
    more = np.load(folder / TRAIN)
    assert more.shape == (100, 61) and np.array_equal(more[:, :51], before) and len(reads) == 2


def test_cached_features_of_other_weights_are_not_mined(run, tmp_path):
    before = np.load(run("moco") / TRAIN)
    torch.save(network(seed=7).state_dict(), tmp_path / "other.pth")
    assert not np.array_equal(np.load(run("moco", f"--model {tmp_path}/other.pth") / TRAIN), before)


def test_a_plain_backbone_is_mined_with_and_evaluated_without_a_head(run, mined, tmp_path, capsys):
    classifier = {"fc.weight": torch.zeros(1000, 16), "fc.bias": torch.zeros(1000)}
    torch.save(network().backbone.state_dict() | classifier, tmp_path / "resnet.pth")
    folder = run("moco", f"weights={tmp_path}/resnet.pth")
    for name in (TRAIN, VAL):
        assert np.array_equal(np.load(folder / name), np.load(mined / name))
    run("eval", f"--config_exp {CONFIGS['moco']} --model {folder}/model.pth.tar")
    assert "right among the top 20" in capsys.readouterr().out
    run("scan")


def test_fewer_images_than_classes_are_mined_without_the_kmeans_baseline(run):
    folder = run("moco", "max_images=40 num_neighbors=20")
    assert np.load(folder / TRAIN).shape == (40, 21)
    assert '"k-means"' not in (folder / "log.jsonl").read_text()


@pytest.fixture
def fetch(imagenet, tmp_path, monkeypatch, no_pictures):
    """fetch(root, download): moco.py where no weights are named; returns where torch keeps them."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def fetch(root, download):
        monkeypatch.setattr(torch.hub, "download_url_to_file", download)
        here = imagenet / "results" / "imagenet_50"
        words = imagenet_runs.arguments_of("moco", here, f"root_dir={tmp_path / root}")
        moco.main([word for word in words if not word.startswith("weights")])
        return tmp_path / "hub" / "checkpoints"

    return fetch


def test_without_a_path_the_published_weights_are_fetched_once_into_torchs_folder(
    fetch, imagenet, monkeypatch
):
    urls, content = [], (imagenet / "moco.pth.tar").read_bytes()

    def save(url, path, **_):
        urls.append(url)
        Path(path).write_bytes(content)

    monkeypatch.setattr(moco, "MD5", f"md5:{hashlib.md5(content).hexdigest()[:8]}")
    fetch("first", save)
    name = "moco_v2_800ep_pretrain.pth.tar"
    assert (fetch("second", save) / name).is_file()
    assert urls == [f"https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v2_800ep/{name}"]


def test_a_download_that_fails_says_where_from_where_to_and_how_else(fetch, tmp_path):
    def fail(*_, **__):
        raise OSError("Network is unreachable")

    with pytest.raises(UserError) as error:
        fetch("first", fail)
    words = ("unreachable", "https://dl.fbaipublicfiles.com/moco/", str(tmp_path / "hub"), "weights=")
    assert all(word in str(error.value) for word in words)


# -- SCAN on a frozen backbone


def test_only_the_heads_move_and_the_val_images_are_those_that_step_1_read(run, mined, reads):
    folder = run("scan", f"pretext_dir={mined} epochs=3")
    assert len([path for path in reads if "img_val" in str(path)]) == 1  # to try the view
    trained, expected = weights(folder), network().state_dict()
    heads = {name for name in trained if name.startswith("cluster_head.")}
    assert all(torch.equal(trained[name], expected[name]) for name in trained.keys() - heads)
    assert len(heads) == 2 * 10


def test_with_cached_views_no_training_image_is_read_after_the_first_epoch_begins(
    run, mined, reads, monkeypatch
):
    at_epoch = []

    def train(training):
        at_epoch.append(len(reads))
        assert training.loader.seed == 5
        assert np.array_equal(training.loader.neighbors, np.load(mined / TRAIN))
        return training.run_epoch()

    with monkeypatch.context() as patch:
        replace_training(patch, "scan", train)
        run("scan", f"pretext_dir={mined} epochs=3 cached_views=2 seed=5")
    assert at_epoch == [len(reads)] * 3
    (path,) = mined.glob("cached_views*.npy")
    views, written = np.load(path), path.stat().st_mtime_ns
    assert views.shape == (2, 100, 16) and not np.array_equal(views[0], views[1])
    reads.clear()
    run("scan", f"pretext_dir={mined} cached_views=2 seed=6 run_name=other")
    again = {path for path in reads if "img_val" not in str(path)}
    assert len(again) == 1  # the first image, as at each start
    assert path.stat().st_mtime_ns == written


def test_the_kept_model_is_the_best_of_all_epochs_by_the_loss_of_its_own_outputs(run, mined, imagenet):
    folder = run("scan", f"pretext_dir={mined} epochs=3 seed=3 optimizer_kwargs.lr=50")
    content = torch.load(folder / "model.pth.tar", weights_only=True)
    model = build_model(load_config(None, CONFIGS["scan"], NARROW.split())).eval()
    model.load_state_dict(content["model"])
    with torch.no_grad():
        heads = [logits.softmax(dim=1).double() for logits in model(plain_views(imagenet, "val"))]
    neighbors = torch.from_numpy(np.load(mined / VAL))
    losses = []
    for p in heads:
        consistency = -(p[:, None] * p[neighbors]).sum(dim=2).log().clamp(min=-100).mean()
        usage = p.mean(dim=0).clamp(min=1e-8)
        losses.append((consistency + (usage * usage.log()).sum()).item())
    logged = [entry["val/total_loss"] for entry in read_log(folder / "log.jsonl") if "epoch" in entry]
    confidence = heads[content["head"]].amax(dim=1).mean().item()
    found = losses[content["head"]], min(logged), read_results(folder / "log.jsonl")["mean_confidence"]
    assert found == pytest.approx((min(losses), min(losses), confidence), abs=1e-4)


# -- all of it, and eval.py on files as the model zoo has them


def test_the_commands_run_one_after_another(run, capsys):
    for stage, more in (("moco", ""), ("scan", ""), ("selflabel", LOW)):
        model = run(stage, more) / "model.pth.tar"
        capsys.readouterr()
        run("eval", f"--config_exp {CONFIGS[stage]} --model {model}")
        out = capsys.readouterr().out
        assert str(model) in out
        assert ("right among the top 20" if stage == "moco" else "ACC Top-5") in out


@pytest.mark.parametrize("stage, heads", [("scan", 10), ("selflabel", 1)])
def test_eval_reports_what_is_computed_independently_of_a_file_as_the_zoo_has_it(
    stage, heads, run, imagenet, tmp_path, monkeypatch
):
    torch.manual_seed(3)
    model = with_statistics(build_model(load_config(None, CONFIGS[stage], NARROW.split())))
    views, best = plain_views(imagenet, "val"), heads // 2
    with torch.no_grad():
        for head in model.cluster_head:  # each cluster is as likely as the others
            head.bias.copy_(-head(model.backbone(views)).mean(dim=0))
        probabilities = model(views)[best].softmax(dim=1).numpy()
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    content = {"model": state, "head": np.int64(best)} if heads > 1 else state
    torch.save(content, tmp_path / "zoo.pth.tar", _use_new_zipfile_serialization=False)

    targets, predictions = np.arange(50), probabilities.argmax(axis=1)
    table = np.zeros((50, 50), dtype=int)
    np.add.at(table, (predictions, targets), 1)
    clusters, classes = linear_sum_assignment(-table)
    class_of = np.zeros(50, dtype=int)
    class_of[clusters] = classes
    top5 = class_of[np.argsort(-probabilities, axis=1)[:, :5]]  # (50, 5)
    expected = {
        "ACC": table[clusters, classes].sum() / 50,
        "NMI": normalized_mutual_info_score(targets, predictions),
        "AMI": adjusted_mutual_info_score(targets, predictions),
        "ACC Top-5": (top5 == targets[:, None]).any(axis=1).mean(),
    }

    seen = {}
    monkeypatch.setattr(evaluation, "print_metrics", lambda title, metrics: seen.update(metrics, title=title))
    run("eval", f"--config_exp {CONFIGS[stage]} --model {tmp_path}/zoo.pth.tar")
    assert seen["title"].endswith(f"50 images, head {best}")
    assert len(set(predictions)) > 5  # the figures say something
    assert {name: seen[name] for name in expected} == pytest.approx(expected, abs=1e-9)


# -- the published commands and configs as they are, with a whole ResNet-50: only shorter


PUBLISHED = {  # data set: names of its published configs and how many clusters they ask for
    "imagenet_50": ("moco_imagenet50", "scan_imagenet_50", "selflabel_imagenet_50", 50),
    "imagenet_100": ("moco_imagenet100", "scan_imagenet_100", "selflabel_imagenet_100", 100),
    "imagenet_200": ("moco_imagenet200", "scan_imagenet_200", "selflabel_imagenet_200", 200),
    "imagenet": ("moco_imagenet", "scan_imagenet", None, 1000),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_command_runs_a_few_steps_on_a_resnet50_in_mocos_format(
    name, tmp_path, monkeypatch, capsys
):
    pretext, scanning, labelling, num_clusters = PUBLISHED[name]
    classes, images = min(num_clusters, 200), max(64, num_clusters)
    write_imagenet(tmp_path / "data", name, train=-(-images // classes), val=1, num_classes=classes)
    torch.manual_seed(0)
    state = mocos(ContrastiveModel(resnet50("imagenet"), "mlp", 128))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save({"epoch": 800, "state_dict": state}, tmp_path / "hub" / "checkpoints" / moco.FILE)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setenv("SCAN_IMAGENET_DIR", str(tmp_path / "data"))
    (tmp_path / "configs").symlink_to(Path("configs").absolute())
    monkeypatch.chdir(tmp_path)  # where results go is the published place, too

    def command(stage, path, *more):
        experiment = ["--config_exp", f"configs/{path}.yml", "device=cpu", "num_workers=0"]
        MAINS[stage]([*experiment, *(["--config_env", "configs/env.yml"] if stage != "eval" else []), *more])

    few = [f"max_images={images}", *["transformation_kwargs.crop_size=64"] * (images > 200)]  # or 10 minutes
    views = ["augmentation_kwargs.random_resized_crop.size=64"] * (images > 200)
    train = [*few, *views, "batch_size=16", "epochs=1"]
    command("moco", f"pretext/{pretext}", *few)
    command("scan", f"scan/{scanning}", *train)
    evaluated = {"scan": "imagenet_eval" if name == "imagenet" else scanning}
    if labelling:
        command("selflabel", f"selflabel/{labelling}", *train, f"confidence_threshold={1 / num_clusters}")
        evaluated["selflabel"] = labelling
    for stage, config in evaluated.items():
        capsys.readouterr()
        model = f"results/{name}/{stage}/model.pth.tar"
        command("eval", f"{stage}/{config}", "--model", model, "--visualize_prototypes", *few)
        out = capsys.readouterr().out
        assert "ACC Top-5" in out and "AMI" in out
    assert weights(Path(f"results/{name}/scan"))["cluster_head.9.weight"].shape == (num_clusters, 2048)
