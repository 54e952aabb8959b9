"""NVIDIA GPUs."""

import torch
from torch.profiler import ProfilerActivity

from bridgetower_train.config import DeviceConfig
from bridgetower_train.devices.base import Device, Probe

PEAK_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}
"""Dense bf16 FLOP/s without sparsity, from NVIDIA's data sheets (SXM parts)."""


class CudaDevice(Device):
    """One GPU."""

    name = "cuda"
    backend = "nccl"
    mp_start_method = "fork"
    pin_memory = pin_snapshots = True
    activities = (ProfilerActivity.CPU, ProfilerActivity.CUDA)

    def __init__(self, config: DeviceConfig, local_rank: int) -> None:
        super().__init__(config, local_rank)
        self.torch_device = torch.device("cuda", local_rank)
        torch.cuda.set_device(self.torch_device)
        torch.backends.cuda.matmul.allow_tf32 = True  # Microsoft's fp32 run used it: torch 1.11's default on A100

    @classmethod
    def probe(cls, config: DeviceConfig) -> Probe:
        if torch.cuda.is_available():
            return Probe(True, f"{torch.cuda.device_count()} GPUs found")
        return Probe(False, "torch finds no GPU")

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
