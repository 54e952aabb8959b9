"""One micro-batch, as the loader makes it and the objectives read it."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IGNORE = -100
"""Label of an empty place in `mlm_labels`."""


@dataclass(frozen=True)
class BadRecord:
    """A record that could not be used and was replaced by the next of its lane."""

    corpus: str
    shard: str
    key: str
    reason: str
    position: int
    """Place in the run that it should have filled."""


@dataclass(frozen=True)
class Batch:
    """B pairs. S image edge, L text length, M masked places per text."""

    pixel_values: Tensor
    """uint8 (B, 3, S, S), memory order of channels last: mean and deviation are applied on the device."""
    input_ids: Tensor
    """int64 (B, L): the clean text; `<pad>` is 1."""
    masked_ids: Tensor
    """int64 (B, L): the same text with masks."""
    text_mask: Tensor
    """bool (B, L): True where a token is real."""
    mlm_positions: Tensor
    """int64 (B, M): where the masked tokens stand; empty places hold 0."""
    mlm_labels: Tensor
    """int64 (B, M): what they were; empty places hold IGNORE."""
    image_id: Tensor
    """int64 (B,): equal for captions of one image, below 2^31."""
    itm_negative: Tensor
    """int64 (B,): row of an image with another `image_id` from the same lane; the own row where there is none."""
    bad: list[BadRecord] = field(default_factory=list)
    """What had to be replaced; stays on the host."""

    def to(self, device: torch.device) -> "Batch":
        """A copy on `device`; pinned memory is copied without waiting."""
        return self._map(lambda t: t.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """A copy in page-locked memory (called by DataLoader)."""
        return self._map(lambda t: t.pin_memory())

    def __reduce__(self) -> tuple[Any, ...]:
        """Only the images travel from a loader worker in shared memory; each tensor there costs an open file."""
        small = {f.name: getattr(self, f.name).numpy() for f in fields(self) if f.name not in ("pixel_values", "bad")}
        return _unpickle, (self.pixel_values, small, self.bad)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        moved = {f.name: function(getattr(self, f.name)) for f in fields(self) if f.name != "bad"}
        return Batch(**moved, bad=self.bad)


def _unpickle(pixel_values: Tensor, small: dict[str, npt.NDArray[np.generic]], bad: list[BadRecord]) -> Batch:
    return Batch(pixel_values, **{name: torch.from_numpy(array) for name, array in small.items()}, bad=bad)
