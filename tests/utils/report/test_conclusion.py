"""The end of scan.py and selflabel.py."""

from types import SimpleNamespace

import pytest
import torch

from utils.report.conclusion import conclude


class FakeRun:
    """Notes what it is told."""

    def __init__(self, path):
        self.path, self.results, self.warnings, self.ends = path, {}, [], []
        self.log = SimpleNamespace(final=self.results.__setitem__, warn=self.warnings.append)
        self.finish = self.ends.append
        (path / "log.jsonl").write_text('{"epoch": 1, "train/loss": 1.0}\n')


def concluded(folder, targets, predictions=(0, 1, 1)):
    run = FakeRun(folder)
    probabilities = 0.8 * torch.eye(2)[list(predictions)] + 0.1
    conclude(run, "SCAN", probabilities, SimpleNamespace(targets=targets, classes=["cat", "dog"]))
    return run, {path.name for path in folder.iterdir()} - {"log.jsonl"}


def test_results_are_logged_and_both_pictures_drawn_where_labels_are_known(tmp_path):
    run, files = concluded(tmp_path, torch.tensor([1, 0, 1]))
    assert run.results["SCAN"]["ACC"] == pytest.approx(2 / 3)
    assert run.results["SCAN"]["mean_confidence"] == pytest.approx(0.9)
    assert files == {"curves.png", "confusion_matrix.png"} and run.warnings == []
    (end,) = run.ends
    assert "curves.png" in end and "confusion_matrix.png" in end


def test_without_labels_there_is_no_confusion_matrix(tmp_path):
    run, files = concluded(tmp_path, None)
    assert "ACC" not in run.results["SCAN"] and files == {"curves.png"}
    assert "confusion_matrix.png" not in run.ends[0]


def test_clusters_that_collapsed_are_warned_of(tmp_path):
    run, _ = concluded(tmp_path, None, predictions=(1, 1, 1))
    assert any("used_clusters" in warning for warning in run.warnings)
