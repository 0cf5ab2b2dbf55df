import math

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
from utils.features import cached_features, extract_features, predict
from utils.storage.files import read_manifest

COUNT = EVAL_BATCH_SIZE + 1  # the last batch is a single image
TO_UNIT = (Normalize(mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0]),)


def numbered_images():
    """Image i is all i // 256 in red, i % 256 in green and 0 in blue."""
    number = torch.arange(COUNT)
    colors = torch.stack([number // 256, number % 256, torch.zeros_like(number)], dim=1)  # (N, 3)
    return colors[:, :, None, None].expand(-1, -1, 2, 2).to(torch.uint8)


@pytest.fixture
def loader():
    return eval_loader(ResidentDataset(numbered_images(), None, []), TO_UNIT, "cpu")


class Backbone(nn.Module):
    """The colours (B, 3) of uniform images, through layers that act otherwise in train mode; notes how it is called."""

    features_dim = 3

    def __init__(self):
        super().__init__()
        self.norm, self.dropout, self.frozen = nn.BatchNorm1d(3), nn.Dropout(0.5), nn.BatchNorm1d(3)
        self.calls = []

    def forward(self, images):
        flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        self.calls.append((len(images), self.training, torch.is_grad_enabled(), *flags))
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


def colors_of_all():
    return [[i // 256, i % 256, 0] for i in range(COUNT)]


def test_features_hold_every_image_once_in_order_the_last_odd_one_too(loader):
    features = extract_features(Backbone(), loader)
    assert features.dtype == torch.float32 and features.device.type == "cpu" and not features.requires_grad
    assert features.round().tolist() == colors_of_all()


def test_predictions_are_the_softmax_of_every_image_for_each_head(loader):
    first, second = predict(Heads(), loader)
    for head, sign in ((first, 1), (second, -1)):
        assert head.dtype == torch.float32 and head.shape == (COUNT, 3) and not head.requires_grad
        torch.testing.assert_close(head.sum(dim=1), torch.ones(COUNT), rtol=0, atol=1e-6)
        for image in (0, 1, 255, 256, COUNT - 1):
            powers = [math.exp(sign * color / 32) for color in colors_of_all()[image]]
            expected = [power / sum(powers) for power in powers]
            assert head[image].tolist() == pytest.approx(
                expected, rel=0.05 if sign < 0 else 1e-4
            )  # bfloat16: 3 digits


def test_the_network_is_called_in_eval_mode_without_gradients_and_tf32(network_and_call, loader):
    network, backbone, call = network_and_call
    call(network, loader)
    assert backbone.calls == [(EVAL_BATCH_SIZE, False, False, False, False), (1, False, False, False, False)]


def test_batch_norm_buffers_do_not_move(network_and_call, loader):
    network, _, call = network_and_call
    network.train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    call(network, loader)
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


@pytest.fixture(params=[(True, False), (False, True)], ids=str)
def tf32(request):
    """The settings for matrix products and convolutions, as a user left them."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32, convolutions.allow_tf32 = request.param
    yield request.param
    products.allow_tf32, convolutions.allow_tf32 = before


@pytest.mark.parametrize("fails", [False, True], ids=["ends well", "raises"])
def test_every_modules_mode_and_the_tf32_settings_are_put_back(network_and_call, loader, tf32, fails):
    network, backbone, call = network_and_call
    network.train()
    backbone.frozen.eval()  # frozen inside a network in training
    before = {name: module.training for name, module in network.named_modules()}
    if fails:
        backbone.dropout.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call(network, loader)
    else:
        call(network, loader)
    assert {name: module.training for name, module in network.named_modules()} == before
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == tf32
    assert torch.is_grad_enabled()


# -- features kept in a file


@pytest.fixture
def path(tmp_path):
    return tmp_path / "features-train.npy"


def test_kept_features_are_those_that_are_extracted_and_the_network_is_run_once(loader, path):
    network = Backbone()
    first = cached_features(path, network, loader)
    calls = len(network.calls)
    again = cached_features(path, network, loader)
    assert len(network.calls) == calls == 2
    assert first.shape == (1, COUNT, 3) and first.dtype == torch.float32
    assert torch.equal(first[0], extract_features(network, loader)) and torch.equal(again, first)
    assert np.array_equal(np.load(path), first.numpy())


def test_above_the_budget_they_stay_on_disk_and_cannot_be_changed_there(loader, path, monkeypatch):
    whole = cached_features(path, Backbone(), loader)
    opened, load = [], np.load
    monkeypatch.setattr(
        np, "load", lambda place, mmap_mode: opened.append(mmap_mode) or load(place, mmap_mode)
    )
    assert torch.equal(cached_features(path, Backbone(), loader), whole)
    monkeypatch.setattr(module, "IN_MEMORY", path.stat().st_size - 1)
    mapped = cached_features(path, Backbone(), loader)
    assert torch.equal(mapped, whole) and opened == [None, "c"]
    before = path.read_bytes()
    mapped += 1
    assert path.read_bytes() == before


def other_weights(network, loader):
    torch.nn.init.constant_(network.norm.weight, 2.0)
    return network, loader


def other_images(network, loader):
    images = loader.dataset.images.clone()
    images[5] += 1
    return network, eval_loader(ResidentDataset(images, None, []), TO_UNIT, "cpu")


def other_transform(network, loader):
    return network, eval_loader(
        loader.dataset, (Normalize(mean=[0.5, 0.0, 0.0], std=[1.0, 1.0, 1.0]),), "cpu"
    )


@pytest.mark.parametrize("change", [other_weights, other_images, other_transform])
def test_features_of_other_weights_images_or_transforms_are_never_taken(change, loader, path):
    network = Backbone()
    stale = cached_features(path, network, loader)
    network, loader = change(network, loader)
    fresh = cached_features(path, network, loader)
    assert torch.equal(fresh[0], extract_features(network, loader)) and not torch.equal(fresh, stale)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"),
        lambda path: path.write_bytes(b""),
        lambda path: path.with_name(path.name + ".json").unlink(),
    ],
    ids=["one byte", "all bytes", "the record"],
)
def test_a_damaged_file_is_extracted_anew(spoil, loader, path):
    whole = cached_features(path, Backbone(), loader)
    spoil(path)
    assert torch.equal(cached_features(path, Backbone(), loader), whole)
    assert torch.equal(torch.from_numpy(np.load(path)), whole)


def test_an_extraction_that_is_broken_off_leaves_no_file(loader, path):
    network = Backbone()
    network.frozen.register_forward_hook(lambda *_: 1 / 0 if len(network.calls) == 2 else None)
    with pytest.raises(ZeroDivisionError):
        cached_features(path, network, loader)
    assert list(path.parent.iterdir()) == []


CUT = (*TO_UNIT, Cutout(1, 4))


def test_each_pass_draws_its_own_views_by_its_number_and_the_seed(path):
    dataset = ResidentDataset(numbered_images()[:40] + 1, None, [])
    network, loader = Backbone(), build_loader(dataset, [CUT], 16, seed=3)
    kept = cached_features(path, network, loader, passes=3)
    assert kept.shape == (3, 40, 3)
    for number in range(3):
        loader.set_epoch(number)
        assert torch.equal(kept[number], extract_features(network, loader))
    assert len({view.numpy().tobytes() for view in kept}) == 3
    assert read_manifest(path)["passes"] == 3
    assert not torch.equal(
        cached_features(path, network, build_loader(dataset, [CUT], 16, seed=4), passes=3), kept
    )


# -- batches of kept features

VIEWS, IMAGES = 3, 50


def numbered_features():
    """(V, N, 2): the number of the view and of the image."""
    view, image = torch.meshgrid(torch.arange(VIEWS), torch.arange(IMAGES), indexing="ij")
    return torch.stack([view, image], dim=2).float()


def feature_loader(train=True, neighbors=None, batch_size=16):
    dataset = ResidentDataset(
        torch.zeros(IMAGES, 3, 2, 2, dtype=torch.uint8), torch.arange(IMAGES) % 5, list("abcde")
    )
    return FeatureLoader(numbered_features(), dataset, [None, None], batch_size, "cpu", train, neighbors, 7)


def test_a_batch_of_features_has_the_images_and_neighbors_that_a_batch_of_views_has():
    neighbors = torch.stack([(torch.arange(IMAGES) + shift) % IMAGES for shift in (0, 7, 13)], dim=1)
    loader = feature_loader(neighbors=neighbors)
    views = build_loader(loader.dataset, [TO_UNIT] * 2, 16, train=True, neighbors=neighbors, seed=7)
    for epoch in range(2):
        loader.set_epoch(epoch)
        views.set_epoch(epoch)
        for batch, step, of_views in zip(loader, views.steps(0), views, strict=True):
            assert torch.equal(batch.index, of_views.index) and torch.equal(batch.target, of_views.target)
            assert all(
                torch.equal(view[:, 1].long(), who)
                for view, who in zip(batch.views, step.sources, strict=True)
            )


def test_every_view_of_an_image_is_drawn_anew_each_time_and_as_often_as_the_others():
    loader, drawn = feature_loader(), []
    for epoch in range(100):
        loader.set_epoch(epoch)
        drawn += [view[:, 0] for batch in loader for view in batch.views]
    counts = torch.cat(drawn).long().bincount(minlength=VIEWS)
    assert counts.sum() == 100 * 48 * 2
    assert (counts / counts.sum() - 1 / VIEWS).abs().max() < 0.02  # 4 standard deviations


def test_a_pass_over_features_goes_on_in_its_middle_as_a_whole_one():
    loader = feature_loader()
    loader.set_epoch(1)
    whole = list(loader)
    loader.set_epoch(1, first_step=2)
    (last,) = loader
    assert all(map(torch.equal, last.views, whole[2].views))
