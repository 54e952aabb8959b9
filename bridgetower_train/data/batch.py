"""One micro-batch: the loader makes it, a task reads it."""

import ctypes
import mmap
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from bridgetower_train.config import Shape

_MADV_POPULATE_WRITE = 23  # of madvise(2), since Linux 5.14


@dataclass(frozen=True)
class BadRecord:
    """A record that could not be used and was replaced by the next usable one of its lane."""

    corpus: str
    shard: str
    key: str
    reason: str
    position: int
    """Index of the sample that it should have been; `position` is its key in bad_samples.jsonl."""


@dataclass(frozen=True)
class Batch:
    """B samples of I images and one text each. S image edge, L text length."""

    pixel_values: Tensor
    """uint8 (B * I, 3, S, S) in channels-last memory order, a sample's images in a row; normalised on the device."""
    input_ids: Tensor
    """int64 (B, L): the text; `<pad>` is 1."""
    text_mask: Tensor
    """bool (B, L): True where a token is real."""
    image_id: Tensor
    """int64 (B,): equal for samples of the same image, below 2^31."""
    labels: dict[str, Tensor] = field(default_factory=dict)
    """What the task's Reader adds, by name; B rows each."""
    bad: list[BadRecord] = field(default_factory=list)
    """Records that had to be replaced; stays on the host."""
    patches: Tensor | None = None
    """int64 (B * I, K): the patches of each image that the model sees, ascending, from 0; None: all."""

    @property
    def shape(self) -> Shape:
        """What tells its shapes from those of others in a run."""
        return Shape(self.input_ids.shape[1], None if self.patches is None else self.patches.shape[1])

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, as one flat dict."""
        own = {name: getattr(self, name) for name in _OWN}
        return {name: tensor for name, tensor in own.items() if tensor is not None} | self.labels

    @staticmethod
    def of(tensors: dict[str, Tensor], bad: list[BadRecord] | None = None) -> "Batch":
        """The inverse of `tensors`."""
        labels = {name: tensor for name, tensor in tensors.items() if name not in _OWN}
        return Batch(**{name: tensors[name] for name in _OWN if name in tensors}, labels=labels, bad=bad or [])

    def to(self, device: torch.device) -> "Batch":
        """A copy on `device`; the host does not wait for pinned memory to be copied."""
        return self._map(lambda t: t.to(device, non_blocking=True))

    def share_memory(self) -> None:
        """Move what is not there yet to shared memory, which other processes take over without a copy."""
        for tensor in self.tensors().values():
            tensor.share_memory_()

    def pin_memory(self) -> "Batch":
        """A copy in page-locked memory (called by DataLoader)."""
        return self._map(lambda t: t.pin_memory())

    def __reduce__(self) -> tuple[Any, ...]:
        """Only the images are sent from a loader worker in shared memory: each tensor there takes a file descriptor."""
        small = {name: tensor.numpy() for name, tensor in self.tensors().items() if name != "pixel_values"}
        return _unpickle, (self.pixel_values, small, self.bad)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch.of({name: function(tensor) for name, tensor in self.tensors().items()}, self.bad)


_OWN = ("pixel_values", "input_ids", "text_mask", "image_id", "patches")
"""Fields of every batch, whatever the task."""


def _unpickle(pixel_values: Tensor, small: dict[str, npt.NDArray[np.generic]], bad: list[BadRecord]) -> Batch:
    return Batch.of({"pixel_values": pixel_values} | {name: torch.from_numpy(a) for name, a in small.items()}, bad)


def empty_pixels(count: int, size: int) -> Tensor:
    """uint8 (count, size, size, 3); in a loader worker it is shared memory, which the queue passes on without a copy."""
    shape = (count, size, size, 3)
    if get_worker_info() is None:
        return torch.from_numpy(np.empty(shape, dtype=np.uint8))  # numpy uses huge pages, torch does not
    storage = torch.UntypedStorage._new_shared(count * size * size * 3)
    _map_pages(storage)
    shared: Tensor = torch.empty(0, dtype=torch.uint8).set_(storage)
    return shared.view(shape)


def _map_pages(storage: torch.UntypedStorage) -> None:
    """Map the pages of shared memory together: each when it is first written takes 3% more of a worker's time.

    Does nothing where the system cannot.
    """
    if sys.platform == "linux":
        page = mmap.PAGESIZE
        start = storage.data_ptr() // page * page
        size = storage.data_ptr() + storage.nbytes() - start
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_POPULATE_WRITE)
