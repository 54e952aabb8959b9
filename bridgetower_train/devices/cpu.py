"""The CPU: what everything falls back to, and where the tests run."""

import platform
import resource
from pathlib import Path

import torch

from bridgetower_train.config import DeviceConfig
from bridgetower_train.devices.base import Device, Probe


class CpuDevice(Device):
    """All cores that torch may use."""

    name = "cpu"
    backend = "gloo"
    worker_context = "fork"

    @classmethod
    def probe(cls, config: DeviceConfig) -> Probe:
        """Always usable."""
        return Probe(True, "always there")

    @property
    def description(self) -> str:
        """Model name of the processor and the threads that torch uses."""
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.exists() else []
        model = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
        )
        return f"{model}, {torch.get_num_threads()} threads"

    def memory_gb(self) -> float:
        """Largest resident set of this process."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
