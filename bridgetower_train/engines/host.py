"""Copies of tensors in host memory, which a thread may write out while training changes the tensors."""

from collections.abc import Iterable
from threading import Thread, main_thread

import torch
from torch import Tensor

from bridgetower_train.devices import Device


class HostCopies:
    """Host memory for named tensors of float32, page-locked where the device gains by it, and used again."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._buffers: dict[str, Tensor] = {}
        self._taking: Thread | None = None

    def preallocate(self, shapes: dict[str, torch.Size]) -> None:
        """Start to take the memory of these names, in the background: the kernel takes seconds to give so many pages."""
        self._taking = Thread(target=self._take, args=(shapes,), name="host memory")
        self._taking.start()

    def _take(self, shapes: dict[str, torch.Size]) -> None:
        for name, shape in shapes.items():
            if not main_thread().is_alive():  # an error ends the process
                return
            buffer = torch.empty(shape, pin_memory=self.device.pin_memory)
            if not self.device.pin_memory:  # what is page-locked is there already
                buffer.numpy().fill(0.0)  # on one core, and without the interpreter's lock
            self._buffers[name] = buffer

    def copy(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Contiguous copies of (name, tensor), which hold until these names are copied again.

        Waits for the memory that was reserved; what was not is taken now.
        """
        if self._taking is not None:
            self._taking.join()
            self._taking = None
        copies = {}
        for name, tensor in tensors:
            if name not in self._buffers:
                self._buffers[name] = torch.empty(tensor.shape, pin_memory=self.device.pin_memory)
            copies[name] = self._buffers[name].copy_(tensor, non_blocking=self.device.pin_memory)
        self.device.synchronize()
        return copies
