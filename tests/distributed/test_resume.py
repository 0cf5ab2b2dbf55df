"""A run may be stopped and go on with any number of processes."""

import numpy as np
import pytest
import torch

from tests.distributed import stages
from tests.distributed.processes import on_processes
from tests.small_runs import few_digits
from utils import distributed
from utils.errors import UserError
from utils.run import signals
from utils.run.checkpoints import load_checkpoint
from utils.run.meter import Meter

CHECKPOINT = "digits/pretext/checkpoint.pth.tar"


def stopped(root, epoch, step, exact):
    """Train until after a step of an epoch, where the last process gets a signal."""
    update = Meter.update

    def stopping(meter, **values):
        update(meter, **values)
        if (meter.epoch, meter.step) == (epoch, step) and distributed.rank() == distributed.world_size() - 1:
            signals._answer(15, None)

    Meter.update = stopping
    with pytest.raises(signals.Stopped):
        stages.run(root, {"pretext": []}, epochs=3, exact=exact)


def finished(root, exact):
    return stages.run(root, {"pretext": []}, epochs=3, exact=exact)["pretext"]


def optimizer_of(root):
    return load_checkpoint(root / CHECKPOINT)[0]["optimizer"]["state"]


@pytest.mark.slow
def test_with_as_many_processes_the_end_is_that_of_an_unbroken_run_to_the_last_bit(tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    (whole, _), _ = on_processes(2, finished, unbroken, False)
    on_processes(2, stopped, broken, 1, 1, False)
    content, _ = load_checkpoint(broken / CHECKPOINT)
    assert (content["epoch"], content["begun_epoch"]["step"], content["processes"]) == (1, 2, 2)
    for state, _ in on_processes(2, finished, broken, False):
        assert all(np.array_equal(state[name], value) for name, value in whole.items())
    states = zip(optimizer_of(unbroken).values(), optimizer_of(broken).values(), strict=True)
    assert all(torch.equal(one["momentum_buffer"], other["momentum_buffer"]) for one, other in states)


@pytest.mark.slow
def test_with_other_numbers_it_is_the_same_but_for_rounding_and_the_log_says_so(tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    ((whole, _),) = on_processes(1, finished, unbroken, True)
    on_processes(2, stopped, broken, 0, 1, True)
    on_processes(1, stopped, broken, 1, 0, True)
    for state, _ in on_processes(3, finished, broken, True):
        for name, value in whole.items():
            np.testing.assert_allclose(state[name], value, rtol=1e-6, atol=1e-8, err_msg=name)
    log = (broken / "digits" / "pretext" / "log.jsonl").read_text()
    warnings = [line for line in log.splitlines() if "warning" in line and "processes" in line]
    assert len(warnings) == 2


def other_images(root):
    """What a run says where the second process sees other images."""
    with pytest.MonkeyPatch.context() as patch:
        few_digits(patch)
        if distributed.rank() == 1:
            patch.setattr("data.ResidentDataset.fingerprint", "another")
        try:
            stages.run_stage("pretext", root)
        except UserError as error:
            return str(error)


def test_processes_that_see_other_images_are_refused_before_anything_is_written(tmp_path):
    for fault in on_processes(2, other_images, tmp_path):
        assert "images" in fault
    assert not list(tmp_path.iterdir())
