"""How gradients are averaged: in one all-reduce, and in bf16, on two real gloo ranks with accumulation and clipping."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import files, run_ranks
from zero_ranks import OPTIM, Traffic, Training

from bridgetower_train.config import DeviceConfig, EngineConfig, OptimConfig
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.devices.cuda import CudaDevice
from bridgetower_train.devices.hpu import HpuDevice
from bridgetower_train.engines.reduction import BUCKETS, check_reduction
from bridgetower_train.errors import ConfigError

FEW, MANY = 4, 20
WAYS = {
    "native": (BUCKETS, MANY),
    "once": (EngineConfig(reduce="once"), FEW),
    "bf16": (EngineConfig(reduce_precision="bf16"), FEW),
    "once, bf16": (EngineConfig(reduce="once", reduce_precision="bf16"), MANY),
    **{f"zero{stage}, bf16": (EngineConfig(f"zero{stage}", reduce_precision="bf16"), FEW) for stage in range(4)},
}
"""Way -> its configuration, and steps."""
BOUND = 5e-4
"""Largest difference of a loss from that of fp32 gradients over MANY steps, relative to its size."""


def story(rank: int, folder: Path) -> dict[str, Any]:
    """What is told of each way, on one rank."""
    traffic = Traffic()
    return {way: chapter(way, folder / way, traffic) for way in WAYS}


def chapter(way: str, folder: Path, traffic: Traffic) -> dict[str, Any]:
    """The figures and the traffic of its steps; checkpoints after FEW, and around one more whose loss is not finite."""
    config, steps = WAYS[way]
    training = Training(config.name, parallel=config)
    traffic.bytes.clear()
    training.run(range(1))
    sent = dict(traffic.bytes)
    training.run(range(1, FEW)).save(folder / "few")
    training.run(range(FEW, steps)).step(steps, poisoned=True)
    if steps == FEW:
        training.save(folder / "poisoned")
    return {"lines": training.lines, "sent": sent}


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    """(folder of checkpoints, what each rank tells)."""
    folder = tmp_path_factory.mktemp("reduction")
    return folder, run_ranks(story, 2, folder, timeout=300)


def worst(lines: list[dict[str, float]], expected: list[dict[str, float]], name: str) -> float:
    return max(abs(a[name] / b[name] - 1) for a, b in zip(lines, expected, strict=False) if name in b)


@pytest.mark.parametrize(("way", "same"), [("once", "native"), ("once, bf16", "bf16")])
def test_one_all_reduce_gives_what_buckets_give(told, way, same):
    folder, tales = told
    assert files(folder / way / "few") == files(folder / same / "few")
    assert tales[0][way]["lines"][:FEW] == tales[0][same]["lines"][:FEW]


@pytest.mark.parametrize("way", [way for way in WAYS if "bf16" in way])
def test_bf16_stays_near_fp32(told, way):
    """Over 20 steps in which the loss falls, every one of them clipped."""
    native, lines = (told[1][0][name]["lines"] for name in ("native", way))
    steps = WAYS[way][1]
    assert all(line["grad_norm"] > OPTIM.clip_norm for line in native[:MANY])
    assert native[MANY - 1]["loss"] < native[0]["loss"] - 0.3
    loss, norm = (worst(lines[:steps], native, name) for name in ("loss", "grad_norm"))
    print(f"{way}, {steps} steps: loss {loss:.1e}, grad_norm {norm:.1e}")
    assert loss < BOUND
    assert 0 < norm < 40 * BOUND


@pytest.mark.parametrize("way", list(WAYS))
def test_a_loss_that_is_not_finite_is_left_out_on_all_ranks(told, way):
    folder, tales = told
    assert [tale[way]["lines"][-1]["skipped"] for tale in tales] == [1, 1]
    if WAYS[way][1] == FEW:
        assert files(folder / way / "poisoned") == files(folder / way / "few")


def test_bf16_halves_the_bytes(told):
    sent = {way: sum(n for kind, n in tale["sent"].items() if kind != "all_gather") for way, tale in told[1][0].items()}
    gradients = sent["once"]
    assert sent["bf16"] == sent["once, bf16"] == pytest.approx(gradients / 2, rel=0.01)
    for stage, micro_batches in enumerate((1, 1, 2, 2)):
        assert sent[f"zero{stage}, bf16"] == pytest.approx(micro_batches * gradients / 2, rel=0.01)


@pytest.mark.parametrize(
    ("engine", "config", "device", "said"),
    [
        ("zero0", EngineConfig(reduce="once"), CpuDevice, "leaves the reduction to DeepSpeed"),
        ("zero2", EngineConfig(reduce="once"), HpuDevice, "use engine=native"),
        ("native", EngineConfig(reduce_precision="bf16"), HpuDevice, "add engine.reduce=once"),
    ],
)
def test_what_is_not_possible_is_refused(engine, config, device, said):
    with pytest.raises(ConfigError, match=said):
        check_reduction(engine, config, device)


def test_everything_else_is_possible():
    for device in (CpuDevice, CudaDevice, HpuDevice):
        check_reduction("native", EngineConfig(reduce="once", reduce_precision="bf16"), device)
        check_reduction("zero3", EngineConfig(reduce_precision="bf16"), device)


def test_moments_in_bf16_are_refused_where_the_optimizer_has_none():
    groups = [{"params": [torch.nn.Parameter(torch.ones(3))], "lr": 0.1, "weight_decay": 0.0}]
    with pytest.raises(ConfigError, match=r"optim\.moments=bf16: torch's fused AdamW, which device cpu uses"):
        CpuDevice(DeviceConfig(), 0).adamw(groups, OptimConfig(moments="bf16"))
