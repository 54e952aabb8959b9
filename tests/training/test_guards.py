"""What stops a run, and what an update that is skipped leaves behind."""

import math

import pytest
import torch

from bridgetower_train.config import DeviceConfig, OptimConfig
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.errors import UserError
from bridgetower_train.training.guards import NonFiniteGuard, check_bad_records


def test_a_streak_is_named_by_its_first_step():
    guard = NonFiniteGuard(3, torch.device("cpu"))
    for skipped in (1, 0, 1, 1):
        guard.record(torch.tensor(float(skipped)))
    assert guard.streak() is None
    guard.record(torch.tensor(1.0))
    assert guard.streak() == 3
    assert guard.total == 4


def test_a_streak_goes_on_over_a_resume():
    guard = NonFiniteGuard(3, torch.device("cpu"), start=5, skipped=2, streak=2)
    assert guard.streak() is None
    guard.record(torch.tensor(1.0))
    assert (guard.streak(), guard.total) == (4, 3)


def test_bad_records_stop_the_run_beyond_the_fraction():
    check_bad_records(10, 64, 0.01, [])
    check_bad_records(100, 10_000, 0.01, [])
    with pytest.raises(UserError, match=r"101 of 10000 records.*data\.max_bad_fraction=0\.01.*coco/000003\.tar"):
        check_bad_records(101, 10_000, 0.01, ["coco/000003.tar"])


class Updates:
    """Updates of one parameter on the CPU."""

    def __init__(self, clip_norm: float) -> None:
        self.device, self.clip_norm = CpuDevice(DeviceConfig(), 0), clip_norm
        self.parameter = torch.nn.Parameter(torch.ones(4))
        groups = [{"params": [self.parameter], "lr": 0.1, "weight_decay": 0.1}]
        self.optimizer = self.device.adamw(groups, OptimConfig())

    def update(self, gradient: float, skipped: float = 0.0) -> list[torch.Tensor]:
        """Weights and state after an update that is `skipped` or not."""
        self.parameter.grad = torch.full((4,), gradient)
        gradients = [self.parameter.grad]
        norm = torch.nn.utils.get_total_norm(gradients)
        assert float(self.device.clip_or_skip(self.optimizer, gradients, norm, self.clip_norm)) == skipped
        self.optimizer.step()
        return [self.parameter.detach().clone(), *(t.clone() for t in self.optimizer.state[self.parameter].values())]


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_skipped_update_changes_neither_weights_nor_moments(clip_norm, wrong):
    updates = Updates(clip_norm)
    before, after = updates.update(1.0), updates.update(wrong, skipped=1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not torch.equal(before[0], updates.update(1.0)[0])


def test_clipping():
    for clip_norm, expected in ((0.0, 6.0), (1.0, 1.0), (7.0, 6.0)):
        updates = Updates(clip_norm)
        updates.update(3.0)
        assert float(updates.parameter.grad.norm()) == pytest.approx(expected, abs=1e-5)
