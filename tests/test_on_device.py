"""No step makes the host wait for the device, and few things are copied there, from pinned memory.

PyTorch's device `meta` shows it on any machine: it has shapes but no values, so asking for one, or mixing
tensors of two devices, is an error. On a GPU PyTorch itself reports what waits."""

from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import pytest
import torch
from easydict import EasyDict
from torch.utils._python_dispatch import TorchDispatchMode

import data.dataset as dataset_module
import scan
import selflabel
import simclr
from data.augment import TRANSFORMS, apply, draw, train_transform, val_transform
from data.dataset import ResidentDataset
from data.loader import build_loader
from data.loader.features import FeatureLoader
from losses import ConfidenceBasedCE, SCANLoss, SimCLRLoss
from losses.selflabel import ConfidenceTerms
from models import build_model
from models.ema import InPlaceEMA
from utils.config import load_config
from utils.device import near, sent
from utils.run.meter import Meter

DEVICES = ["meta", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request):
    return torch.device(request.param)


@contextmanager
def waiting_is_an_error(device):
    set_mode = torch.cuda.set_sync_debug_mode if device.type == "cuda" else lambda _: None
    set_mode("error")
    try:
        yield
    finally:
        set_mode("default")


class Training(NamedTuple):
    """A stage's config, and a narrow network on the device with its optimizer."""

    cfg: EasyDict
    device: torch.device
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer

    def epoch(self, script, loader, criterion, **more):
        task = script.Task(loader=loader, criterion=criterion, optimizer=self.optimizer, **more)
        with waiting_is_an_error(self.device):
            script.train_epoch(task, Meter(loader, log_every=100, model=self.model), nullcontext)


@pytest.fixture
def run(request, device, monkeypatch):
    """Left out are the averages, for which a training waits."""
    monkeypatch.setattr(Meter, "averages", lambda self: {})
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which `meta` does not have
    stage, *overrides = request.param
    cfg = load_config(None, f"configs/{stage}_cifar10.yml", ["model_kwargs.width=4", *overrides])
    model = build_model(cfg).to(device, memory_format=torch.channels_last)
    return Training(cfg, device, model, torch.optim.SGD(model.parameters(), lr=0.1))


def images(device, count=48, size=32):
    return ResidentDataset(torch.zeros(count, 3, size, size, dtype=torch.uint8, device=device), None, [])


def loader_for(run, views, place=None, **more):
    """place: where the images lie; None: on the device."""
    return build_loader(images(place or run.device), views, 16, run.device, train=True, **more)


@pytest.mark.parametrize("wait", [torch.Tensor.item, torch.Tensor.cpu, bool, lambda x: x[x > 0]])
def test_it_is_an_error_to_wait_for_values(wait, device):
    with waiting_is_an_error(device), pytest.raises((RuntimeError, NotImplementedError)):
        wait(torch.zeros(1, device=device))


def random_views(cfg):
    return train_transform(cfg)


CONFIGS = {"ours": "scan/scan_cifar10", "affine": "pretext/simclr_digits"}


def both_transforms(name):
    experiment = CONFIGS.get(name, "pretext/simclr_cifar10")
    cfg = load_config(None, f"configs/{experiment}.yml", [f"augmentation_strategy={name}"])
    return [val_transform(cfg.transformation_kwargs), random_views(cfg)]


RESIZED = EasyDict(resize=40, crop_size=32, normalize={"mean": [0.5] * 3, "std": [0.5] * 3})


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("size", [32, 40], ids=["as large as the view", "larger"])
def test_augmenting_does_not_wait(name, size, device):
    for transform in [*both_transforms(name), val_transform(RESIZED)]:
        table = draw(transform, 64, torch.Generator().manual_seed(0))
        pictures = torch.zeros(64, 3, size, size, dtype=torch.uint8, device=device)
        with waiting_is_an_error(device):
            views = apply(transform, pictures, table)
        assert views.device.type == device.type and views.dtype == torch.float32


class Copies(TorchDispatchMode):
    """Counts the copies from the CPU to another device, which on a GPU must be from pinned memory."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        to = torch.device((kwargs or {}).get("device") or "cpu").type
        if "_to_copy" in str(function) and arguments[0].device.type == "cpu" != to:
            self.count += 1
            assert to != "cuda" or arguments[0].is_pinned()
        return function(*arguments, **(kwargs or {}))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_plain_and_a_random_view_of_a_batch_take_at_most_eight_copies_to_the_device(name, device):
    loader = build_loader(images(device, size=40), both_transforms(name), 16, device, train=True)
    loader.group = 1
    list(loader)  # constants such as the mean are copied only once
    loader.set_epoch(1)
    batches = iter(loader)
    with Copies() as copies:
        next(batches)
    assert 0 < copies.count <= 8


def test_what_is_sent_to_a_gpu_is_pinned_first_and_the_host_does_not_wait(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda values: calls.append("pinned") or values)
    monkeypatch.setattr(torch.Tensor, "to", lambda values, device, **more: calls.append(more) or values)
    sent(torch.zeros(3), torch.device("cuda"))
    assert calls == ["pinned", {"non_blocking": True}]


@pytest.mark.parametrize("free, fits", [(4 * 800, True), (4 * 800 - 1, False)])
def test_what_takes_at_most_a_quarter_of_the_free_gpu_memory_is_put_there(free, fits, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**9))
    monkeypatch.setattr(torch.Tensor, "to", lambda values, device: "on the device")
    values = torch.zeros(200)  # 800 bytes
    assert near(values, torch.device("cuda")) is ("on the device" if fits else values)
    assert near(values, torch.device("cpu")) is values


@pytest.mark.parametrize("run", [["pretext/simclr"]], indirect=True)
@pytest.mark.parametrize("place", [None, "cpu"], ids=["images on the device", "images in host memory"])
def test_a_step_of_simclr_does_not_wait(place, run, monkeypatch):
    monkeypatch.setattr(dataset_module, "near", lambda values, _: values)
    loader = loader_for(run, [random_views(run.cfg)] * 2, place)
    run.epoch(simclr, loader, SimCLRLoss(0.1), model=run.model)


def scan_parts(network):
    return {"network": network, "trained": network, "saved": network}


@pytest.mark.parametrize("run", [["scan/scan", "num_heads=2"]], indirect=True)
def test_a_step_of_scan_does_not_wait(run):
    loader = loader_for(run, [random_views(run.cfg)] * 2, neighbors=torch.zeros(48, 5, dtype=torch.int64))
    run.epoch(scan, loader, SCANLoss(5.0, range(1, 11)), **scan_parts(run.model))


@pytest.mark.parametrize("run", [["scan/scan", "update_cluster_head_only=True"]], indirect=True)
def test_a_step_on_cached_features_does_not_wait(run):
    neighbors, features = torch.zeros(48, 5, dtype=torch.int64), torch.zeros(3, 48, 32, device=run.device)
    loader = FeatureLoader(
        features, images(run.device), [None, None], 16, run.device, train=True, neighbors=neighbors
    )
    run.epoch(scan, loader, SCANLoss(5.0), **scan_parts(run.model.cluster_head))


class Answer(torch.Tensor):
    """A CPU tensor in place of a number on the device; counts how often its value is asked for."""

    asked, asking = 0, ("__bool__", "__int__", "__float__", "item", "tolist", "cpu", "nonzero")

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), kwargs=None):
        cls.asked += function.__name__ in cls.asking
        return super().__torch_function__(function, types, arguments, kwargs)


@pytest.mark.parametrize("run", [["selflabel/selflabel"]], indirect=True)
def test_a_step_of_self_labelling_waits_once_to_see_whether_any_image_is_confident(run, monkeypatch):
    class Answered(ConfidenceBasedCE):
        def forward(self, weak, strong):
            loss, n_kept = super().forward(weak, strong)
            assert n_kept.device.type == run.device.type
            return ConfidenceTerms(loss, torch.tensor(3).as_subclass(Answer))

    monkeypatch.setattr(Answer, "asked", 0)
    loader = loader_for(run, [val_transform(run.cfg.transformation_kwargs), random_views(run.cfg)])
    average = InPlaceEMA(run.model, 0.99)
    run.epoch(selflabel, loader, Answered(0.9, True), model=run.model, ema=average)
    assert Answer.asked == 3 + 2  # once in each step, and after the last for the sums over all
