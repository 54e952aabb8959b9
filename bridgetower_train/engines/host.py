"""Copies of tensors in host memory, which a thread can write to disk while training changes the tensors."""

from collections.abc import Iterable
from threading import Thread, main_thread

import torch
from torch import Tensor

from bridgetower_train.devices import Device


class HostCopies:
    """Reusable host memory for named float32 tensors, page-locked if the device benefits."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._buffers: dict[str, Tensor] = {}
        self._allocating: Thread | None = None

    def preallocate(self, shapes: dict[str, torch.Size]) -> None:
        """Start to allocate memory for these names in the background: the kernel takes seconds for so many pages."""
        self._allocating = Thread(target=self._allocate, args=(shapes,), name="host memory")
        self._allocating.start()

    def _allocate(self, shapes: dict[str, torch.Size]) -> None:
        for name, shape in shapes.items():
            if not main_thread().is_alive():  # an error ends the process
                return
            buffer = torch.empty(shape, pin_memory=self.device.pin_snapshots)
            if not self.device.pin_snapshots:  # page-locked memory has its pages already
                buffer.numpy().fill(0.0)  # on one core, and without holding the GIL
            self._buffers[name] = buffer

    def copy(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Contiguous copies of (name, tensor), valid until these names are copied again.

        Waits for preallocated memory; other memory is allocated now.
        """
        if self._allocating is not None:
            self._allocating.join()
            self._allocating = None
        copies = {}
        for name, tensor in tensors:
            if name not in self._buffers:
                self._buffers[name] = torch.empty(tensor.shape, pin_memory=self.device.pin_snapshots)
            copies[name] = self._buffers[name].copy_(tensor, non_blocking=self.device.pin_snapshots)
        self.device.synchronize()
        return copies
