"""What must hold on a GPU as on the CPU; skipped where there is none."""

import pytest
import torch

import scan
import selflabel
import simclr
from data import build_dataset
from data.augment import apply, draw, train_transform
from data.loader import build_loader
from utils.config import load_config
from utils.neighbors import exact
from utils.neighbors.search import mine_neighbors

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("config", ["pretext/simclr_cifar10", "scan/scan_cifar10", "pretext/simclr_digits"])
def test_one_table_gives_the_same_views_on_both_devices(config):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (256, 3, 32, 32), dtype=torch.uint8, generator=generator)
    cfg = load_config(None, f"configs/{config}.yml")
    transform = train_transform(cfg)
    table = draw(transform, len(images), generator)
    on_cpu, on_device = apply(transform, images, table), apply(transform, images.to(DEVICE), table).cpu()
    level = 1 / 255 / min(cfg.augmentation_kwargs.normalize.std)  # of the 256 grey levels, normalised
    differing = (on_cpu - on_device).abs() > 0.01 * level
    assert differing.float().mean() < 0.005  # sums in another order may round to another level


def test_a_loader_keeps_resident_images_and_views_on_the_device():
    cfg = load_config(None, "configs/pretext/simclr_digits.yml")
    dataset = build_dataset(cfg, "val")
    transform = train_transform(cfg)
    loader = build_loader(dataset, [transform, transform], 64, DEVICE, train=True)
    assert loader.images.device.type == DEVICE
    assert all(view.device.type == DEVICE for view in next(iter(loader)).views)


def test_mining_on_the_device_finds_the_neighbor_sets_of_the_cpu(monkeypatch):
    features = torch.randn(3000, 64, generator=torch.Generator().manual_seed(0))
    features = torch.nn.functional.normalize(features, dim=1)
    expected = mine_neighbors(features, 10, "torch").sort(dim=1).values
    for backend in ("auto", "torch"):
        assert torch.equal(mine_neighbors(features.to(DEVICE), 10, backend).sort(dim=1).values, expected)
    monkeypatch.setattr(exact, "SIMILARITIES", 2**19)  # blocks of 1,000 features, which stay on the host
    found = mine_neighbors(features, 10, "torch", device=torch.device(DEVICE))
    assert torch.equal(found.sort(dim=1).values, expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_three_stages_run_on_the_device(precision, tmp_path):
    for script, stage in ((simclr, "pretext"), (scan, "scan"), (selflabel, "selflabel")):
        overrides = [f"root_dir={tmp_path}", f"device={DEVICE}", f"precision={precision}", "epochs=2"]
        overrides += ["confidence_threshold=0.11"] if stage == "selflabel" else []
        script.main(["--config_exp", f"configs/{stage}/{script.__name__}_digits.yml", *overrides])
        assert (tmp_path / "digits" / stage / "model.pth.tar").exists()
