import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from data.augment.steps import Cutout, Normalize
from data.dataset import ResidentDataset
from data.loader import build_loader
from data.loader.build import EVAL_BATCH_SIZE, eval_loader
from data.loader.features import FeatureLoader
from utils import features as module
from utils.features import cached_features, extract_features, pass_through, predict, predict_from
from utils.storage.files import manifest_path, read_manifest

COUNT = EVAL_BATCH_SIZE + 1  # the last batch is a single image
TO_UNIT = (Normalize(mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0]),)
COLORS = [[i // 256, i % 256, 0] for i in range(COUNT)]
TF32 = torch.backends.cuda.matmul, torch.backends.cudnn


def images_of(count=COUNT, change=0):
    """Image i is all i // 256 in red, i % 256 in green and 0 in blue."""
    images = torch.tensor(COLORS[:count], dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 2, 2) ^ change
    return ResidentDataset(images.contiguous(), torch.arange(count) % 5, list("abcde"))


@pytest.fixture
def loader():
    return eval_loader(images_of(), TO_UNIT, "cpu")


class Backbone(nn.Module):
    """The colours (B, 3) of uniform images, through layers that differ in train mode; notes its calls."""

    def __init__(self):
        super().__init__()
        self.norm, self.dropout, self.frozen = nn.BatchNorm1d(3), nn.Dropout(0.5), nn.BatchNorm1d(3)
        self.calls = []

    def forward(self, images):
        flags = (self.training, torch.is_grad_enabled(), *(each.allow_tf32 for each in TF32))
        self.calls.append((len(images), *flags))
        return self.frozen(self.dropout(self.norm(255 * images.mean(dim=(2, 3)))))


class Heads(nn.Module):
    """Two heads over the colours, the second in bfloat16."""

    def __init__(self):
        super().__init__()
        self.backbone = Backbone()

    def forward(self, images):
        colors = self.backbone(images) / 32
        return [colors, -colors.bfloat16()]


@pytest.fixture(params=[extract_features, predict], ids=["extract_features", "predict"])
def network_and_call(request):
    """The network, the backbone in it, and the function that runs it over a loader."""
    network = Backbone() if request.param is extract_features else Heads()
    return network, getattr(network, "backbone", network), request.param


def test_features_hold_every_image_once_in_order_the_last_odd_one_too(loader):
    features = extract_features(Backbone(), loader)
    assert features.dtype == torch.float32 and features.device.type == "cpu" and not features.requires_grad
    assert features.round().tolist() == COLORS


def test_predictions_are_the_softmax_of_every_image_for_each_head(loader):
    first, second = predict(Heads(), loader)
    for head, sign, precision in ((first, 1, 1e-4), (second, -1, 0.05)):  # bfloat16 has 3 digits
        assert head.dtype == torch.float32 and head.shape == (COUNT, 3) and head.is_contiguous()
        for image in (0, 1, 255, 256, COUNT - 1):
            powers = [math.exp(sign * color / 32) for color in COLORS[image]]
            assert head[image].tolist() == pytest.approx([p / sum(powers) for p in powers], rel=precision)


def test_predictions_of_many_heads_are_in_memory_once(loader):
    first, second = predict(Heads(), loader)
    memory = first.untyped_storage()
    assert second.untyped_storage().data_ptr() == memory.data_ptr() and memory.nbytes() == 2 * COUNT * 3 * 4


@pytest.fixture(params=[(True, False), (False, True)], ids=str)
def tf32(request):
    """The settings for matrix products and convolutions, as a user left them."""
    before = [backend.allow_tf32 for backend in TF32]
    TF32[0].allow_tf32, TF32[1].allow_tf32 = request.param
    yield request.param
    TF32[0].allow_tf32, TF32[1].allow_tf32 = before


@pytest.mark.parametrize("fails", [False, True], ids=["ends well", "raises"])
def test_the_network_is_in_eval_mode_without_gradients_and_tf32_and_afterwards_as_before(
    network_and_call, loader, tf32, fails
):
    network, backbone, call = network_and_call
    network.train()
    backbone.frozen.eval()  # frozen inside a network in training
    modes = {name: module.training for name, module in network.named_modules()}
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    if fails:
        backbone.dropout.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call(network, loader)
    else:
        call(network, loader)
        assert backbone.calls == [(size, False, False, False, False) for size in (EVAL_BATCH_SIZE, 1)]
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in network.named_buffers())
    assert tuple(backend.allow_tf32 for backend in TF32) == tf32 and torch.is_grad_enabled()


# -- mixed precision

FINE = 1 + 2**-10  # which bfloat16, of 8 bits, rounds to 1
BF16 = partial(torch.autocast, "cpu", dtype=torch.bfloat16)


class Fine(nn.Module):
    """The numbers 1 and FINE for every image."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 2)
        nn.init.ones_(self.layer.weight)
        self.layer.bias.data = torch.tensor([0, FINE - 1])

    def forward(self, images):
        return self.layer(torch.ones(len(images), 1))


class FineHead(Fine):
    def forward(self, images):
        return [super().forward(images)]


def test_features_and_predictions_are_fp32_also_in_a_bf16_run_so_that_mining_is(loader, tmp_path):
    with BF16():
        features = extract_features(Fine(), loader)
        (cached,) = cached_features(tmp_path, "features", Fine(), loader)
        (probabilities,) = predict(FineHead(), loader)
        assert torch.is_autocast_enabled("cpu")  # afterwards as before
    assert features.tolist() == cached.tolist() == [[1, FINE]] * COUNT
    assert (probabilities[:, 1] > probabilities[:, 0]).all()  # of FINE and 1; rounded, they are equal


def test_features_for_monitoring_may_be_computed_in_bf16(loader):
    assert extract_features(Fine(), loader, BF16).tolist() == [[1, 1]] * COUNT


# -- a layer over features


def random_features(images=11):
    return torch.randn(images, 3, generator=torch.Generator().manual_seed(0))


def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 4)


@pytest.mark.parametrize("images", [1, 4, 8, 11])
def test_features_go_through_a_layer_in_blocks_and_each_comes_out_in_its_place(images, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    layer, features, sizes = linear(), random_features(images), []
    layer.register_forward_hook(lambda _, inputs, output: sizes.append(len(inputs[0])))
    found = pass_through(layer, features, "cpu")
    assert sizes == [4] * (images // 4) + [images % 4] * (images % 4 > 0)
    assert found.dtype == torch.float32 and not found.requires_grad
    for x, row in zip(features.tolist(), found.tolist(), strict=True):
        expected = [
            sum(w * each for w, each in zip(weights, x, strict=True)) + bias
            for weights, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        ]
        assert row == pytest.approx(expected, abs=1e-6)


def test_a_layer_is_fp32_over_features_of_fewer_bits_and_in_a_bf16_run(tf32):
    layer, flags = linear(), []
    layer.register_forward_hook(lambda *_: flags.extend(each.allow_tf32 for each in TF32))
    with BF16():
        found = pass_through(layer, random_features().half(), "cpu")
        assert torch.is_autocast_enabled("cpu")
    torch.testing.assert_close(found, layer(random_features().half().float()).detach())
    assert flags[:2] == [False, False] and tuple(backend.allow_tf32 for backend in TF32) == tf32


def test_a_heads_predictions_are_the_softmax_of_its_logits_for_every_image():
    head, features = linear(), random_features()
    found = predict_from(head, features, "cpu")
    assert found.dtype == torch.float32 and not found.requires_grad
    for logits, row in zip(head(features).tolist(), found.tolist(), strict=True):
        powers = [math.exp(logit) for logit in logits]
        assert row == pytest.approx([power / sum(powers) for power in powers], rel=1e-5)


def test_a_heads_predictions_from_features_are_those_of_the_model_from_images(loader):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.heads = Backbone(), nn.ModuleList([linear(), nn.Linear(3, 4)])

        def forward(self, images):
            return [head(self.backbone(images) / 256) for head in self.heads]

    model = Model()
    features = extract_features(model.backbone, loader) / 256
    for head, expected in zip(model.heads, predict(model, loader), strict=True):
        torch.testing.assert_close(predict_from(head, features, "cpu"), expected)


# -- features cached in a file


def cached_files(folder):
    return sorted(folder.glob("*.npy"))


def test_features_that_a_read_only_folder_has_are_taken_and_others_are_kept_elsewhere(
    loader, tmp_path, monkeypatch
):
    there = cached_features(tmp_path, "there", network := Backbone(), loader)
    monkeypatch.setattr("os.access", lambda *_: False)
    assert torch.equal(cached_features(tmp_path, "there", network, loader), there)
    number = len(network.calls)
    files = {*tmp_path.iterdir()}
    for _ in range(2):
        assert torch.equal(cached_features(tmp_path, "other", network, loader), there)
    assert len(network.calls) == 2 * number and {*tmp_path.iterdir()} == files


def test_cached_features_are_those_that_are_extracted_and_the_network_is_run_once(loader, tmp_path):
    network = Backbone()
    first = cached_features(tmp_path, "features-train", network, loader)
    again = cached_features(tmp_path, "features-train", network, loader)
    assert len(network.calls) == 2
    assert first.shape == (1, COUNT, 3) and first.dtype == torch.float32 and torch.equal(again, first)
    assert torch.equal(first[0], extract_features(network, loader))
    (path,) = cached_files(tmp_path)
    assert path.name.startswith("features-train-") and np.array_equal(np.load(path), first.numpy())


def test_those_of_a_network_without_parameters_are_computed_anew_and_no_file_is_written(loader, tmp_path):
    class Green(nn.Module):
        calls = 0

        def forward(self, images):
            self.calls += 1
            return 255 * images[:, 1, 0]

    network = Green()
    for _ in range(2):
        found = cached_features(tmp_path / "new", "features", network, loader)
        assert found.dtype == torch.float32 and found.shape == (1, COUNT, 2)
        assert found[0].round().tolist() == [[green] * 2 for _, green, _ in COLORS]
    assert network.calls == 2 * 2 and not any(tmp_path.iterdir())  # two batches


def test_above_the_budget_they_are_memory_mapped_and_cannot_be_changed_on_disk(loader, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IN_MEMORY", COUNT * 3 * 4)  # bytes of the features without the file's header
    opened, load = [], np.load
    monkeypatch.setattr(np, "load", lambda path, mmap_mode: opened.append(mmap_mode) or load(path, mmap_mode))
    features = cached_features(tmp_path, "features", Backbone(), loader)
    (path,) = cached_files(tmp_path)
    before = path.read_bytes()
    features += 1
    assert path.read_bytes() == before and opened == ["c"]


def other_weights(network, loader):
    nn.init.constant_(network.norm.weight, 2.0)
    return loader


def other_network(network, loader):
    network.dropout = nn.Identity()  # without weights, as the dropout is
    return loader


SHIFTED = (Normalize([0.5] * 3, [1.0] * 3),)
OTHERS = {
    "weights": other_weights,
    "network": other_network,
    "images": lambda network, loader: eval_loader(images_of(change=1), TO_UNIT, "cpu"),
    "transform": lambda network, loader: eval_loader(loader.dataset, SHIFTED, "cpu"),
    "seed": lambda network, loader: build_loader(loader.dataset, loader.views, EVAL_BATCH_SIZE, seed=1),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_what_they_depend_on_is_in_the_name_so_no_run_takes_those_of_another(change, loader, tmp_path):
    network = Backbone()
    cached_features(tmp_path, "features", network, loader)
    (path,) = cached_files(tmp_path)
    content, loader = path.read_bytes(), change(network, loader)
    other = cached_features(tmp_path, "features", network, loader)
    assert torch.equal(other[0], extract_features(network, loader))
    assert len(cached_files(tmp_path)) == 2 and path.read_bytes() == content


SPOILED = {
    "truncated": lambda path, manifest: path.write_bytes(path.read_bytes()[:-1]),
    "a flipped bit": lambda path, manifest: path.write_bytes(path.read_bytes()[:-1] + b"\x01"),
    "zeros": lambda path, manifest: path.write_bytes(bytes(path.stat().st_size)),
    "gone": lambda path, manifest: path.unlink(),
    "damaged manifest": lambda path, manifest: manifest.write_bytes(b"{"),
    "manifest of others": lambda path, manifest: manifest.write_text(
        manifest.read_text().replace(": 0,", ": 1,")
    ),
    "no manifest": lambda path, manifest: manifest.unlink(),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_file_that_is_not_whole_is_extracted_again(spoil, loader, tmp_path):
    whole = cached_features(tmp_path, "features", Backbone(), loader)
    (path,) = cached_files(tmp_path)
    spoil(path, manifest_path(path))
    assert torch.equal(cached_features(tmp_path, "features", Backbone(), loader), whole)
    assert np.array_equal(np.load(path), whole.numpy()) and read_manifest(path)["seed"] == 0


def test_a_run_beside_another_gives_the_same_features_and_one_whole_file(loader, tmp_path):
    network, others = Backbone(), []

    def run_beside(*_):
        if not others:
            others.append(cached_features(tmp_path, "features", Backbone(), loader))

    network.frozen.register_forward_hook(run_beside)
    found = cached_features(tmp_path, "features", network, loader)
    (path,) = cached_files(tmp_path)
    assert torch.equal(found, others[0]) and np.array_equal(np.load(path), found.numpy())
    assert set(tmp_path.iterdir()) == {path, manifest_path(path)}


def test_each_pass_draws_its_own_views_by_its_number_and_the_seed(tmp_path):
    network = Backbone()
    loader = build_loader(images_of(40, change=1), [(*TO_UNIT, Cutout(1, 4))], 16, seed=3)
    cached = cached_features(tmp_path, "views", network, loader, passes=3)
    for number in range(3):
        loader.set_epoch(number)
        assert torch.equal(cached[number], extract_features(network, loader))
    assert len({view.numpy().tobytes() for view in cached}) == 3
    assert torch.equal(cached_features(tmp_path, "views", network, loader, passes=2), cached[:2])
    assert len(cached_files(tmp_path)) == 2


def test_a_batch_of_cached_features_has_the_images_and_neighbors_of_a_batch_of_views():
    neighbors = torch.stack([(torch.arange(50) + shift) % 50 for shift in (0, 7, 13)], dim=1)
    numbers = torch.arange(150.0).view(3, 50, 1)  # image i in view v is 50 v + i
    views = build_loader(images_of(50), [TO_UNIT] * 2, 16, train=True, neighbors=neighbors, seed=7)
    training = {"train": True, "neighbors": neighbors, "seed": 7}
    features = FeatureLoader(numbers, images_of(50), [None, None], 16, "cpu", **training)
    for epoch in range(2):
        views.set_epoch(epoch)
        features.set_epoch(epoch)
        for batch, other in zip(views, features, strict=True):
            assert torch.equal(batch.index, other.index) and torch.equal(batch.target, other.target)
            shown = [(255 * view[:, 1, 0, 0]).round() for view in batch.views]  # the numbers, from the green
            assert all(map(torch.equal, shown, [view[:, 0] % 50 for view in other.views]))
