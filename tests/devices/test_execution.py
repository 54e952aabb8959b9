"""What `device.execution=auto` becomes on CUDA, without a card."""

import importlib.util
import shutil
from dataclasses import replace

import pytest
import torch

from bridgetower_train.config import DataConfig, DeviceConfig, EngineConfig, TrainConfig
from bridgetower_train.devices import Device
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.devices.cuda import MEASURED, CudaDevice, pays
from bridgetower_train.distributed import ALONE
from bridgetower_train.errors import ConfigError
from bridgetower_train.tasks import contrast
from bridgetower_train.training.warm_up import settle_execution
from tests.tiny import SMALL

STEP = 64 * 1.81e12
"""FLOPs of a step of `large` with 64 pairs."""


def cuda(monkeypatch: pytest.MonkeyPatch, name: str = "NVIDIA H200", precision: str = "bf16") -> CudaDevice:
    """A card that only has a name."""
    device = CudaDevice.__new__(CudaDevice)
    device.config, device.torch_device = DeviceConfig(precision=precision), torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/cc")
    return device


def test_it_compiles_where_that_pays_within_2000_steps():
    known = MEASURED["H200"]
    compiles, why = pays(known, STEP, 16, 100_000)
    assert compiles
    assert why == (
        "compile: 2,000 steps would be about 78 s shorter, and compiling 16 graphs takes about 65 s, estimated from "
        "benchmarks/2026-11-27-h200.md"
    )
    for flops, graphs, steps in ((STEP, 16, 1000), (STEP, 32, 100_000), (STEP / 4, 16, 100_000)):
        compiles, why = pays(known, flops, graphs, steps)
        assert not compiles
        assert why.startswith("eager: ")
    assert pays(known, STEP, 16, 2000) == pays(known, STEP, 16, 10**6), "a longer run decides alike"


@pytest.mark.parametrize(("name", "precision"), [("NVIDIA A100-SXM4-80GB", "bf16"), ("NVIDIA H200", "fp32")])
def test_no_gain_is_claimed_that_was_not_measured(monkeypatch, name, precision):
    device = cuda(monkeypatch, name, precision)
    compiles, why = device.worth_compiling(STEP, 16, 100_000)
    assert not compiles
    assert why == (
        f"eager: what compiling gains was not measured on {name} in {precision}; device.execution=compile compiles"
    )
    assert cuda(monkeypatch).worth_compiling(STEP, 16, 100_000)[0]


def test_what_it_lacks_to_compile(monkeypatch):
    device = cuda(monkeypatch)
    assert device.undecided
    assert not device.obstacle()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    assert device.obstacle() == "triton needs compute capability 7.0, this card has 6.1"
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert device.obstacle() == "there is no C compiler (cc, gcc or clang), which triton needs"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert device.obstacle() == "triton is not installed"


def test_graphs_are_refused_with_the_reason():
    with pytest.raises(
        ConfigError, match=r"device\.graphs=true: on cuda, CUDA graphs are not used: .*; remove device\.graphs"
    ):
        Device.__init__(CudaDevice.__new__(CudaDevice), DeviceConfig(graphs=True), 0)


@torch._dynamo.config.patch(suppress_errors=False)
def test_all_ranks_decide_alike_and_say_why(monkeypatch):
    config = TrainConfig(model=SMALL, global_batch=8, data=DataConfig(lanes=4))
    compared = contrast(config, 1)
    asked = []

    def worth(self: CpuDevice, flops: float, graphs: int, steps: int) -> tuple[bool, str]:
        asked.append((graphs, steps))
        return True, "compile: it pays"

    device = CpuDevice(DeviceConfig(), 0)
    settle_execution(config, device, ALONE, compared, 500)
    assert (device.execution, device.execution_why) == ("eager", ""), "nothing is left open on the CPU"
    monkeypatch.setattr(CpuDevice, "undecided", True)
    monkeypatch.setattr(CpuDevice, "worth_compiling", worth)
    zero3 = replace(config, engine=EngineConfig("zero3"))
    settle_execution(zero3, device, ALONE, compared, 500)
    assert (device.execution, device.execution_why) == ("eager", "eager: engine=zero3 takes no compiled blocks")
    settle_execution(config, device, ALONE, compared, 500)
    assert (device.execution, device.execution_why) == ("compile", "compile: it pays")
    assert torch._dynamo.config.suppress_errors
    assert asked == [(12, 500)]
    device.settle(False, "")
    monkeypatch.setattr(CpuDevice, "obstacle", lambda self: "triton is not installed")
    settle_execution(config, device, ALONE, compared, 500)
    assert (device.execution, device.execution_why) == ("eager", "eager: triton is not installed")
