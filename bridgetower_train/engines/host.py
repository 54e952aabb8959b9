"""Copies of tensors in host memory, which a thread may write out while training changes the tensors."""

from collections.abc import Iterable

import torch
from torch import Tensor

from bridgetower_train.devices import Device


class HostCopies:
    """Host memory for named tensors: taken at the first copy, page-locked where the device gains by it, and used again."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._buffers: dict[str, Tensor] = {}

    def copy(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Contiguous copies of (name, tensor), which hold until these names are copied again."""
        copies = {}
        for name, tensor in tensors:
            if name not in self._buffers:
                self._buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self.device.pin_memory)
            copies[name] = self._buffers[name].copy_(tensor, non_blocking=self.device.pin_memory)
        self.device.synchronize()
        return copies
