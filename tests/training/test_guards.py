"""What stops a run, and what an update that is skipped leaves behind."""

import json
import math
import os
import signal

import pytest
import torch

from bridgetower_train.config import DeviceConfig, GuardsConfig, OptimConfig
from bridgetower_train.devices.base import may_update
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.errors import UserError
from bridgetower_train.training import guards
from bridgetower_train.training.guards import UpdateGuard, check_bad_records
from bridgetower_train.training.preemption import Preemption


def guarded(ratio: float = 0.0, **state: float) -> UpdateGuard:
    """A guard that ends a run after three skipped updates in a row."""
    return UpdateGuard(GuardsConfig(3, ratio), torch.device("cpu"), {**guards.NEW, **state})


def record(guard: UpdateGuard, *norms: float) -> list[bool]:
    """Which of these updates are skipped."""
    skipped = []
    for norm in map(torch.tensor, norms):
        skipped.append(not may_update(norm, guard.limit))
        guard.record(torch.tensor(float(skipped[-1])), norm)
    return skipped


def test_a_streak_is_named_by_its_first_step():
    guard = guarded()
    record(guard, math.nan, 1.0, math.nan, math.inf)
    assert guard.streak() is None
    record(guard, math.nan)
    assert guard.streak() == 3
    assert (guard.state()["skipped"], guard.state()["spikes"]) == (4, 0)


def test_a_streak_goes_on_over_a_resume():
    guard = guarded(step=5, skipped=2, streak=2)
    assert guard.streak() is None
    record(guard, math.nan)
    assert (guard.streak(), guard.state()["skipped"]) == (4, 3)


def test_an_update_beyond_the_running_norm_is_skipped_and_does_not_change_it():
    guard = guarded(4.0)
    assert record(guard, *[1.0] * 48, 3.0, 99.0, 1.0, 11.8, 12.6, math.nan, 1.0) == [*[False] * 52, *[True] * 2, False]
    assert guard.figures() == {"skipped": 2, "spikes": 1, "running_norm": pytest.approx(163.8 / 53, rel=1e-6)}
    assert guard.streak() is None
    record(guard, 13.0, 13.0, 13.0)
    assert guard.streak() == 56
    assert "more than guards.max_grad_norm_ratio=4 times its running mean of 3.09" in guard.reason
    assert record(guarded(), *[1.0] * 50, 1e30) == [False] * 51


def test_the_running_norm_is_over_about_a_hundred_updates_and_survives_a_resume():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 150, generator=generator).tolist()
    whole, half = guarded(4.0), guarded(4.0)
    record(whole, *first, *second)
    record(half, *first)
    resumed = guarded(4.0, **json.loads(json.dumps(half.state())), step=150)
    record(resumed, *second)
    assert resumed.state() == whole.state()
    constant = guarded(**resumed.state())
    before = constant.state()["running_norm"]
    record(constant, *[2.0] * 100)
    assert constant.state()["running_norm"] == pytest.approx(2 - (2 - before) * 0.99**100, rel=1e-3)


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

    def update(self, gradient: float, skipped: float = 0.0, limit: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Weights and state after an update that is `skipped` or not."""
        self.parameter.grad = torch.full((4,), gradient)
        gradients = [self.parameter.grad]
        norm = torch.nn.utils.get_total_norm(gradients)
        assert float(self.device.clip_or_skip(self.optimizer, gradients, norm, self.clip_norm, limit)) == skipped
        self.optimizer.step()
        return [self.parameter.detach().clone(), *(t.clone() for t in self.optimizer.state[self.parameter].values())]


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, 50.0])
def test_a_skipped_update_changes_neither_weights_nor_moments(clip_norm, wrong):
    updates, limit = Updates(clip_norm), torch.tensor(99.0)
    before, after = updates.update(1.0, limit=limit), updates.update(wrong, skipped=1.0, limit=limit)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not torch.equal(before[0], updates.update(1.0)[0])


def test_clipping():
    for clip_norm, expected in ((0.0, 6.0), (1.0, 1.0), (7.0, 6.0)):
        updates = Updates(clip_norm)
        updates.update(3.0)
        assert float(updates.parameter.grad.norm()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("scheduler", ["KUBERNETES_SERVICE_HOST", "SLURM_JOB_ID"])
def test_exit_codes(monkeypatch, scheduler):
    preemption = Preemption()
    try:
        preemption.signum = 2
        assert preemption.exit_code == 0
        monkeypatch.setenv(scheduler, "1")
        assert preemption.exit_code == 130
    finally:
        preemption.close()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_are_remembered_until_they_are_handed_back(signum):
    before = signal.getsignal(signum)
    preemption = Preemption()
    try:
        assert not preemption.requested
        os.kill(os.getpid(), signum)
        assert preemption.requested
        assert preemption.signum == signum
        assert signal.getsignal(signum) == before
    finally:
        preemption.close()
