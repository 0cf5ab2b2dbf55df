"""ImageNet's commands one after another, on a small tree of JPEG files and with a narrow network in MoCo's format.

The configs are the published ones; a ResNet-18 stands for the ResNet-50 and the views are small, except in the slow
run of the whole thing."""

import hashlib
import json
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
import scan
import selflabel
from data import dataset as image_files
from data.datasets import imagenet
from models import build_model
from models.backbones.resnet import ResNet18, resnet50
from models.heads import ContrastiveModel
from tests.image_trees import write_imagenet
from utils.config import load_config
from utils.errors import UserError
from utils.storage.files import read_manifest

PRETEXT, SCAN = "configs/pretext/moco_imagenet50.yml", "configs/scan/scan_imagenet_50.yml"
SELFLABEL = "configs/selflabel/selflabel_imagenet_50.yml"
SIZE = 48
NARROW = ["backbone=resnet18", "model_kwargs.width=2", f"transformation_kwargs.crop_size={SIZE}"]
SMALL = ["num_workers=0", "device=cpu", *NARROW]
FEW = ["batch_size=32", "epochs=1"]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """100 training and 50 val images of 50 classes."""
    folder = tmp_path_factory.mktemp("imagenet")
    write_imagenet(folder, "imagenet_50", train=2, val=1)
    return folder


def sharp(model):
    """Batch-norm statistics and weights with which images differ."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    return model.eval()


def network():
    torch.manual_seed(0)
    return sharp(ContrastiveModel(ResNet18("imagenet", 2), "mlp", 128))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A narrow ResNet-18 as MoCo saves its ResNet-50."""
    path = tmp_path_factory.mktemp("moco") / "moco_v2_800ep_pretrain.pth.tar"
    state = {
        "module.encoder_q." + name.removeprefix("backbone.").replace("contrastive_head", "fc"): value
        for name, value in network().state_dict().items()
    }
    torch.save(
        {"epoch": 800, "arch": "resnet50", "state_dict": state}, path, _use_new_zipfile_serialization=False
    )
    return path


@pytest.fixture(autouse=True)
def place(request, tree, monkeypatch):
    """The tree is where the environment says; pictures are drawn in the slow run alone."""
    monkeypatch.setenv("SCAN_IMAGENET_DIR", str(tree))
    if not request.node.get_closest_marker("slow"):
        request.getfixturevalue("no_pictures")


def mine(root, weights, *overrides):
    moco.main(["--config_exp", PRETEXT, f"root_dir={root}", f"moco_weights={weights}", *SMALL, *overrides])
    return root / "imagenet_50" / "pretext"


def cluster(root, *overrides):
    views = [f"augmentation_kwargs.random_resized_crop.size={SIZE}", *FEW]
    scan.main(["--config_exp", SCAN, f"root_dir={root}", *SMALL, *views, *overrides])


def plain_views(tree, split):
    """(N, 3, SIZE, SIZE) by torchvision, in the order of the class list."""
    views = []
    for class_id in imagenet.class_ids("imagenet_50"):
        for path in sorted((tree / imagenet.FOLDERS[split] / class_id).glob("*.JPEG")):
            image = pillow.center_crop(pillow.resize(Image.open(path).convert("RGB"), 256), SIZE)
            views.append(pillow.normalize(pillow.to_tensor(image), MEAN, STD))
    return torch.stack(views)


@pytest.fixture(scope="module")
def mined(tree, weights, tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("SCAN_IMAGENET_DIR", str(tree))
        return mine(tmp_path_factory.mktemp("mined"), weights)


@pytest.fixture
def reads(monkeypatch):
    """The image files that loaders read."""
    paths, read = [], image_files.read_image
    monkeypatch.setattr(image_files, "read_image", lambda path: paths.append(path) or read(path))
    return paths


# -- moco.py


def test_moco_mines_50_and_5_neighbors_by_backbone_features_before_the_mlp(mined, tree):
    backbone = network().backbone
    for split, topk in (("train", 50), ("val", 5)):
        with torch.no_grad():
            features = torch.nn.functional.normalize(backbone(plain_views(tree, split)).double(), dim=1)
        similarity = features @ features.T
        neighbors = torch.from_numpy(np.load(mined / f"topk-{split}-neighbors.npy"))
        assert neighbors.dtype == torch.int64 and neighbors.shape == (len(features), topk + 1)
        assert torch.equal(neighbors[:, 0], torch.arange(len(features)))
        similarity.fill_diagonal_(torch.inf)
        best = similarity.topk(topk + 1, dim=1).values
        found = similarity.gather(1, neighbors)
        assert torch.allclose(found[:, 1:], best[:, 1:], atol=1e-6)


def test_moco_keeps_the_weights_head_included_and_says_their_sha256(mined, weights):
    written = torch.load(mined / "model.pth.tar", weights_only=True)
    expected = network().state_dict()
    assert written.keys() == expected.keys() and all(
        torch.equal(written[name], expected[name]) for name in expected
    )
    notes = [json.loads(line).get("note", "") for line in (mined / "log.jsonl").read_text().splitlines()]
    assert f"SHA-256 of {weights.name}: {hashlib.sha256(weights.read_bytes()).hexdigest()}" in notes


def test_moco_again_says_that_it_is_finished_and_more_neighbors_come_from_the_kept_features(
    weights, tmp_path, reads, capsys
):
    folder = mine(tmp_path, weights)
    assert len(reads) == 150 + 2  # and the first of each split, to see that the views fit
    mine(tmp_path, weights)
    assert f"{folder} is finished" in capsys.readouterr().out
    before = np.load(folder / "topk-train-neighbors.npy")
    reads.clear()
    mine(tmp_path, weights, "num_neighbors=60")
    more = np.load(folder / "topk-train-neighbors.npy")
    assert more.shape == (100, 61) and np.array_equal(more[:, :51], before) and len(reads) == 2


def test_features_kept_of_other_weights_are_not_mined(tree, weights, mined, tmp_path):
    folder = mine(tmp_path, weights)
    before = np.load(folder / "topk-train-neighbors.npy")
    other = tmp_path / "other.pth"
    torch.manual_seed(7)
    torch.save(sharp(ContrastiveModel(ResNet18("imagenet", 2), "mlp", 128)).state_dict(), other)
    moco.main(["--config_exp", PRETEXT, f"root_dir={tmp_path}", "--model", str(other), *SMALL])
    assert not np.array_equal(np.load(folder / "topk-train-neighbors.npy"), before)


def test_a_plain_backbone_is_mined_with_and_evaluated_without_a_head(mined, tmp_path, capsys):
    plain = tmp_path / "resnet.pth"
    backbone = network().backbone.state_dict()
    torch.save(backbone | {"fc.weight": torch.zeros(1000, 16), "fc.bias": torch.zeros(1000)}, plain)
    folder = mine(tmp_path, plain)
    for split in ("train", "val"):
        name = f"topk-{split}-neighbors.npy"
        assert np.array_equal(np.load(folder / name), np.load(mined / name))
    evaluation.main(
        ["--config_exp", PRETEXT, "--model", str(folder / "model.pth.tar"), f"root_dir={tmp_path}", *SMALL]
    )
    assert "right among the top 20" in capsys.readouterr().out
    cluster(tmp_path)


def test_features_after_the_mlp_are_mined_on_request(mined, weights, tmp_path, tree):
    folder = mine(tmp_path, weights, "feature_layer=head")
    with torch.no_grad():
        features = network()(plain_views(tree, "val")).double()
    similarity = (features @ features.T).fill_diagonal_(torch.inf)
    found = similarity.gather(1, torch.from_numpy(np.load(folder / "topk-val-neighbors.npy")))
    assert torch.allclose(found[:, 1:], similarity.topk(6, dim=1).values[:, 1:], atol=1e-6)


def test_an_index_of_faiss_tells_how_many_of_the_exact_neighbors_it_found(mined, weights, tmp_path):
    pytest.importorskip("faiss")
    folder = mine(tmp_path, weights, "knn_index=HNSW32")
    assert np.load(folder / "topk-train-neighbors.npy").shape == (100, 51)
    assert "HNSW32 found" in (folder / "log.jsonl").read_text()


def test_without_a_path_the_published_weights_are_fetched_once_into_torchs_folder(
    weights, tmp_path, monkeypatch
):
    fetched = []

    def fetch(url, path):
        fetched.append(url)
        with open(path, "wb") as file:
            file.write(weights.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for root in ("first", "second"):
        moco.main(["--config_exp", PRETEXT, f"root_dir={tmp_path / root}", *SMALL])
    assert fetched == [
        "https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar"
    ]
    assert (tmp_path / "hub" / "checkpoints" / "moco_v2_800ep_pretrain.pth.tar").is_file()


def test_a_download_that_fails_says_where_from_where_to_and_how_else(tmp_path, monkeypatch):
    def fail(url, path):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(UserError) as error:
        moco.main(["--config_exp", PRETEXT, f"root_dir={tmp_path}", *SMALL])
    message = str(error.value)
    assert "Network is unreachable" in message and "https://dl.fbaipublicfiles.com/moco/" in message
    assert f"save it as {tmp_path / 'hub' / 'checkpoints'}" in message and "moco_weights=..." in message


def test_weights_of_another_network_are_refused_before_anything_is_written(weights, tmp_path):
    with pytest.raises(
        UserError, match="seems to hold resnet18 of width 2 with a 7 x 7 stem, mlp head of 128, the config"
    ):
        mine(tmp_path / "results", weights, "model_kwargs.width=4")
    assert not (tmp_path / "results" / "imagenet_50").exists()


# -- SCAN on a frozen backbone


def test_only_the_heads_move_and_the_val_images_are_read_once(mined, tmp_path, reads):
    cluster(tmp_path, f"pretext_dir={mined}", "epochs=3")
    val = [path for path in reads if "img_val" in str(path)]
    assert len(val) == 50 + 1
    content = torch.load(tmp_path / "imagenet_50" / "scan" / "model.pth.tar", weights_only=True)
    expected = network().state_dict()
    for name, value in content["model"].items():
        assert name.startswith("cluster_head.") or torch.equal(value, expected[name])
    assert sum(name.endswith("weight") for name in content["model"] if name.startswith("cluster_head.")) == 10


def test_with_cached_views_no_training_image_is_read_after_the_first_epoch_begins(
    mined, tmp_path, reads, monkeypatch
):
    at_epoch, train_epoch = [], scan.train_epoch

    def watched(run, model, loader, *rest):
        at_epoch.append(len(reads))
        assert loader.seed == run.cfg.seed
        assert np.array_equal(loader.neighbors, np.load(mined / "topk-train-neighbors.npy"))
        return train_epoch(run, model, loader, *rest)

    monkeypatch.setattr(scan, "train_epoch", watched)
    cluster(tmp_path, f"pretext_dir={mined}", "epochs=3", "cached_views=2", "seed=5")
    assert at_epoch == [len(reads)] * 3
    path = mined / "cached_views.npy"
    kept = np.load(path)
    assert kept.shape == (2, 100, 16) and not np.array_equal(kept[0], kept[1])
    before, begun = read_manifest(path), len(reads)
    cluster(tmp_path, f"pretext_dir={mined}", "epochs=1", "cached_views=2", "seed=6", "run_name=other")
    again = [path for path in reads[begun:] if "img_val" not in str(path)]
    assert read_manifest(path) == before and len(set(again)) == 1  # the first image, as at each start


def test_the_kept_model_is_the_best_of_all_epochs_by_the_loss_of_its_own_outputs(
    mined, tree, tmp_path, monkeypatch
):
    seen, train_epoch = [], scan.train_epoch
    monkeypatch.setattr(scan, "train_epoch", lambda *a: (seen.append(a[2].seed), train_epoch(*a))[1])
    cluster(tmp_path, f"pretext_dir={mined}", "epochs=3", "seed=3", "optimizer_kwargs.lr=50")
    folder = tmp_path / "imagenet_50" / "scan"
    content = torch.load(folder / "model.pth.tar", weights_only=True)
    model = build_model(load_config(None, SCAN, SMALL)).eval()
    model.load_state_dict(content["model"])
    with torch.no_grad():
        heads = [logits.softmax(dim=1).double() for logits in model(plain_views(tree, "val"))]
    neighbors = torch.from_numpy(np.load(mined / "topk-val-neighbors.npy"))
    losses = []
    for p in heads:
        consistency = -(p[:, None] * p[neighbors]).sum(dim=2).log().clamp(min=-100).mean()
        usage = p.mean(dim=0).clamp(min=1e-8)
        losses.append((consistency + (usage * usage.log()).sum()).item())
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    logged = [line["val/total_loss"] for line in lines if "epoch" in line]
    assert (
        min(logged)
        == pytest.approx(losses[content["head"]], abs=1e-4)
        == pytest.approx(min(losses), abs=1e-4)
    )
    (final,) = [line for line in lines if "final" in line]
    assert final["mean_confidence"] == pytest.approx(
        heads[content["head"]].amax(dim=1).mean().item(), abs=1e-4
    )
    assert seen == [3] * 3


def test_cached_views_are_for_a_frozen_backbone(mined, tmp_path):
    with pytest.raises(
        UserError, match="cached_views is 2, but views can be kept for a frozen backbone only"
    ):
        cluster(tmp_path, f"pretext_dir={mined}", "cached_views=2", "update_cluster_head_only=False")


# -- all of it, and eval.py on files as the model zoo has them


def test_the_commands_run_one_after_another(mined, weights, tmp_path, capsys):
    mine(tmp_path, weights)
    cluster(tmp_path)
    views = [f"augmentation_kwargs.crop_size={SIZE}", "confidence_threshold=0.02", *FEW]
    selflabel.main(["--config_exp", SELFLABEL, f"root_dir={tmp_path}", *SMALL, *views])
    capsys.readouterr()
    for stage, config in (("pretext", PRETEXT), ("scan", SCAN), ("selflabel", SELFLABEL)):
        model = tmp_path / "imagenet_50" / stage / "model.pth.tar"
        evaluation.main(["--config_exp", config, "--model", str(model), f"root_dir={tmp_path}", *SMALL])
        out = capsys.readouterr().out
        assert f"loaded 120 of 120 backbone tensors from {model}" in out
        assert ("right among the top 20" if stage == "pretext" else "ACC Top-5") in out


def test_batch_norm_under_the_running_average_follows_on_request(mined, tmp_path):
    cluster(tmp_path, f"pretext_dir={mined}")
    views = [
        f"augmentation_kwargs.crop_size={SIZE}",
        "confidence_threshold=0.02",
        *FEW,
        "ema_batch_norm=running",
    ]
    selflabel.main(["--config_exp", SELFLABEL, f"root_dir={tmp_path}", *SMALL, *views])
    before = torch.load(tmp_path / "imagenet_50" / "scan" / "model.pth.tar", weights_only=True)["model"]
    after = torch.load(tmp_path / "imagenet_50" / "selflabel" / "model.pth.tar", weights_only=True)
    statistics = [name for name in after if "running_" in name]
    assert len(statistics) == 40
    assert not any(torch.equal(after[name], before[name]) for name in statistics)


def test_fewer_images_than_classes_are_mined_without_the_kmeans_baseline(weights, tmp_path):
    folder = mine(tmp_path, weights, "max_images=40", "num_neighbors=20")
    assert np.load(folder / "topk-train-neighbors.npy").shape == (40, 21)
    assert "k-means left out" in (folder / "log.jsonl").read_text()


@pytest.mark.parametrize("config, heads", [(SCAN, 10), (SELFLABEL, 1)])
def test_eval_reports_what_is_computed_independently_of_a_file_as_the_zoo_has_it(
    config, heads, tree, tmp_path, monkeypatch
):
    cfg = load_config(None, config, SMALL)
    torch.manual_seed(3)
    model, views, best = sharp(build_model(cfg)), plain_views(tree, "val"), heads // 2
    with torch.no_grad():
        for head in model.cluster_head:  # each cluster is as likely as the others
            head.bias.copy_(-head(model.backbone(views)).mean(dim=0))
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    path = tmp_path / "zoo.pth.tar"
    content = {"model": state, "head": np.int64(best)} if heads > 1 else state
    torch.save(content, path, _use_new_zipfile_serialization=False)

    with torch.no_grad():
        probabilities = model(views)[best].softmax(dim=1).numpy()
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
    evaluation.main(["--config_exp", config, "--model", str(path), f"root_dir={tmp_path}", *SMALL])
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
    write_imagenet(
        tmp_path / "data",
        name,
        train=2 if name.endswith("50") else 1,
        val=1,
        num_classes=min(num_clusters, 200),
    )
    torch.manual_seed(0)
    state = {
        "module.encoder_q." + key.removeprefix("backbone.").replace("contrastive_head", "fc"): value
        for key, value in ContrastiveModel(resnet50("imagenet"), "mlp", 128).state_dict().items()
    }
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save({"epoch": 800, "state_dict": state}, tmp_path / "hub" / "checkpoints" / moco.FILE)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setenv("SCAN_IMAGENET_DIR", str(tmp_path / "data"))
    (tmp_path / "configs").symlink_to(Path("configs").absolute())
    monkeypatch.chdir(tmp_path)  # where results go is the published place, too

    short = ["max_images=64", "num_workers=0", "device=cpu"]
    train = [*short, "batch_size=16", "epochs=1"]
    moco.main(["--config_env", "configs/env.yml", "--config_exp", f"configs/pretext/{pretext}.yml", *short])
    scan.main(["--config_env", "configs/env.yml", "--config_exp", f"configs/scan/{scanning}.yml", *train])
    evaluated = [("scan", "imagenet_eval" if name == "imagenet" else scanning)]
    if labelling:
        chance = f"confidence_threshold={1 / num_clusters}"
        experiment = f"configs/selflabel/{labelling}.yml"
        selflabel.main(["--config_env", "configs/env.yml", "--config_exp", experiment, *train, chance])
        evaluated.append(("selflabel", labelling))
    for stage, config in evaluated:
        model = f"results/{name}/{stage}/model.pth.tar"
        capsys.readouterr()
        arguments = [
            "--config_exp",
            f"configs/{stage}/{config}.yml",
            "--model",
            model,
            "--visualize_prototypes",
        ]
        evaluation.main([*arguments, "device=cpu", "num_workers=0"])
        out = capsys.readouterr().out
        assert "loaded 318 of 318 backbone tensors" in out and "ACC Top-5" in out and "AMI" in out
    content = torch.load(f"results/{name}/scan/model.pth.tar", weights_only=True)["model"]
    assert content["cluster_head.9.weight"].shape == (num_clusters, 2048)
