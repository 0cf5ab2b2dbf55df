import pytest

from utils.config import load_config
from utils.run import checkpoints
from utils.run.logger import Logger


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    monkeypatch.setattr(Logger, "find_tensorboard", lambda log: None)


@pytest.fixture(autouse=True)
def every_epoch_saved(monkeypatch):
    """As where epochs last for minutes."""
    monkeypatch.setattr(checkpoints, "SAVE_SECONDS", 0)


@pytest.fixture
def config(tmp_path):
    """Of a run of 4 epochs under `tmp_path`, with further overrides."""

    def build(*overrides, path="configs/scan/scan_digits.yml"):
        return load_config(None, path, [f"root_dir={tmp_path}", "device=cpu", "epochs=4", *overrides])

    return build
