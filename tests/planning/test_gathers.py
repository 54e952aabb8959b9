"""What ZeRO-3 gathers, played through, against what DeepSpeed does."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers import SMALL, pretraining, random_batch, run_ranks

from bridgetower_train.config import DeviceConfig, ObjectiveConfig, OptimConfig
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.engines import ZeroEngine
from bridgetower_train.engines.activation import checkpoint_blocks
from bridgetower_train.engines.zero_weights import Zero3Settings
from bridgetower_train.planning.gathers import Gathers, gathers
from bridgetower_train.planning.uses import record
from bridgetower_train.rehearsal.group import agree_for_deepspeed, join
from bridgetower_train.tasks.pretraining import Pretraining

OBJECTIVE, BATCH = ObjectiveConfig(itc=0), random_batch(SMALL, 4)
RANKS, MICRO_BATCHES = 3, 2
USUAL, NONE = Zero3Settings(400, 40_000, 40_000, 160_000), Zero3Settings(0, 0, 0, 0)
CASES = [(USUAL, True), (replace(USUAL, live=10**9), False), (NONE, True)]
"""Limits, and whether activations are computed again."""


class Limited(CpuDevice):
    """The CPU, where DeepSpeed is told other limits."""

    limits = USUAL

    def zero_settings(self, stage: int) -> dict[str, Any]:
        return self.limits.settings()


def blank_task(recomputes: bool) -> Pretraining:
    """With nothing but weights."""
    task = pretraining(SMALL, OBJECTIVE)
    if recomputes:
        checkpoint_blocks(task.model)
    return task


def gathered(_: int) -> list[int]:
    """Bytes that one of three ranks gathers in its fourth step, in each of the CASES; the other ranks are not there."""
    dist.destroy_process_group()
    ranks, log = join(1, RANKS)
    device = Limited(DeviceConfig(name="cpu"), 0)
    agree_for_deepspeed(device)
    for limits, recomputes in CASES:
        device.limits = limits
        log.phase = "start"
        engine = ZeroEngine(3, blank_task(recomputes), device, ranks, OptimConfig())
        for step in range(4):
            log.phase = f"{limits} {recomputes} {step}"
            for last in (False, True):
                engine.forward_backward(BATCH, torch.ones(3), last)
            engine.step()
    sums = Counter({f"{limits} {recomputes} 3": 0 for limits, recomputes in CASES})
    for key, traffic in log.traffic.items():
        if key.kind == "all_gather" and key.phase in sums:
            sums[key.phase] += traffic.bytes
    return list(sums.values())


def played(limits: Zero3Settings, recomputes: bool) -> Gathers:
    task = blank_task(recomputes)
    return gathers(record(task, BATCH, CpuDevice(DeviceConfig(name="cpu"), 0).autocast), limits)


def test_each_weight_is_gathered_as_often_as_deepspeed_does():
    pytest.importorskip("deepspeed")
    sent = run_ranks(gathered, 1)[0]
    assert sent == [4 * played(limits, recomputes).elements(RANKS, MICRO_BATCHES) for limits, recomputes in CASES]
    assert len(set(sent)) == len(CASES)


def test_the_limits_bound_what_is_there():
    """Without one the look-ahead has nearly all there at once."""
    parameters = sum(p.numel() for p in blank_task(False).parameters())
    none, usual, all_ = (played(limits, False) for limits in (NONE, USUAL, replace(USUAL, live=parameters)))
    assert usual.live < 0.5 * parameters < 0.9 * parameters < all_.live
    assert none.elements(1, 1) > usual.elements(1, 1) > all_.elements(1, 1)
    assert none.elements(1, 1) >= 2 * parameters


def test_a_micro_batch_more_gathers_as_much_more():
    some = Gathers([10, 3], [2, 0], [1, 0], [0, 1], 10)
    assert some.elements(1, 1) == 23
    assert some.elements(4, 3) == 4 * 12 + 4
