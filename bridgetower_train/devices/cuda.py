"""NVIDIA GPUs."""

import importlib.util
import os
import shutil
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity

from bridgetower_train.config import DeviceConfig
from bridgetower_train.devices.base import Device, Probe
from bridgetower_train.display import plural
from bridgetower_train.errors import ConfigError

PEAK_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}
"""Dense bf16 FLOP/s without sparsity, from NVIDIA's data sheets (SXM parts)."""


class Measured(NamedTuple):
    """Training of `large` under bf16 on one card."""

    eager: float
    """FLOP/s, at most."""
    compiled: float
    """FLOP/s, compiled."""
    graph: float
    """Seconds to compile a graph, at most."""
    source: str


MEASURED = {"H200": Measured(313e12, 350e12, 65 / 16, "benchmarks/2026-11-27-h200.md")}
"""Eager 96 pairs, compiled 64: nine graphs of blocks in at most a minute. The seven of bridges and layer norms take 9% more, by
what compiling takes without a card (benchmarks/2026-11-30-kernels.md)."""
PAYS_WITHIN = 2000
"""Steps."""


class CudaDevice(Device):
    """One GPU."""

    name = "cuda"
    backend = "nccl"
    mp_start_method = "fork"
    pin_memory = pin_snapshots = True
    activities = (ProfilerActivity.CPU, ProfilerActivity.CUDA)
    no_graphs = (
        "CUDA graphs are not used: results of a block would stay in place, and those of the last fusion layer, which runs twice, "
        "overwrite each other (benchmarks/2026-11-27-h200.md)"
    )

    def __init__(self, config: DeviceConfig, local_rank: int) -> None:
        super().__init__(config, local_rank)
        self.torch_device = torch.device("cuda", local_rank)
        torch.cuda.set_device(self.torch_device)
        if self.execution == "compile" and (obstacle := self.obstacle()):
            raise ConfigError(f"device.execution=compile: {obstacle}; use device.execution=eager")
        torch.backends.cuda.matmul.allow_tf32 = True  # Microsoft's fp32 run used it: torch 1.11's default on A100

    @classmethod
    def probe(cls, config: DeviceConfig) -> Probe:
        if torch.cuda.is_available():
            return Probe(True, f"{plural(torch.cuda.device_count(), 'GPU')} found")
        return Probe(False, "torch finds no GPU")

    @property
    def undecided(self) -> bool:
        return self.config.execution == "auto"

    def obstacle(self) -> str:
        """Inductor makes its kernels by triton, which builds their launchers with a C compiler."""
        if importlib.util.find_spec("triton") is None:
            return "triton is not installed"
        if not any(map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))):
            return "there is no C compiler (cc, gcc or clang), which triton needs"
        major, minor = torch.cuda.get_device_capability(self.torch_device)
        return "" if major >= 7 else f"triton needs compute capability 7.0, this card has {major}.{minor}"

    def worth_compiling(self, flops: float, graphs: int, steps: int) -> tuple[bool, str]:
        """By what was measured on this kind of card."""
        known = next((found for name, found in MEASURED.items() if name in self.description), None)
        if known is None or self.config.precision != "bf16":
            where = f"{self.description} in {self.config.precision}"
            return False, f"eager: what compiling gains was not measured on {where}; device.execution=compile compiles"
        return pays(known, flops, graphs, steps)

    @property
    def description(self) -> str:
        return torch.cuda.get_device_name(self.torch_device)

    @property
    def peak_flops(self) -> float | None:
        """None in fp32 and for GPUs not in the table."""
        if self.config.precision != "bf16":
            return None
        return next((peak for name, peak in PEAK_BF16.items() if name in self.description), None)

    def memory_gb(self) -> float:
        """Largest memory allocated to tensors."""
        return torch.cuda.max_memory_allocated(self.torch_device) / 1e9

    def seed(self, seed: int) -> None:
        super().seed(seed)
        torch.cuda.manual_seed(seed)

    def moment(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.torch_device)


def pays(known: Measured, flops: float, graphs: int, steps: int) -> tuple[bool, str]:
    """As Device.worth_compiling: whether PAYS_WITHIN steps, or all if there are fewer, save more time than compiling takes.

    By the length of the whole run, so that a resume decides alike and computes the same bits.
    """
    counted = min(steps, PAYS_WITHIN)
    saved, takes = counted * flops * (1 / known.eager - 1 / known.compiled), graphs * known.graph
    figures = (
        f"{counted:,} steps would be about {saved:,.0f} s shorter, and compiling {graphs} graphs takes about {takes:,.0f} s, "
        f"estimated from {known.source}"
    )
    return saved > takes, f"{'compile' if saved > takes else 'eager'}: {figures}"
