"""What a task reads of a record, and the labels that it makes of it. Runs in loader workers, apart from the model.

Shapes: B samples, L text length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from bridgetower_train.data.order import IntArray
from bridgetower_train.data.shards import Record


class View(NamedTuple):
    """A sample as its record gives it."""

    images: Sequence[bytes | memoryview]
    """Encoded images, as many as `Reader.images`."""
    text: str


@dataclass(frozen=True)
class Samples:
    """What is known of the samples of a micro-batch when their labels are made."""

    records: list[Record]
    numbers: list[int]
    """Which sample of its record each is (a caption, a question, ...)."""
    sample_index: IntArray
    """int64 (B,): number of each sample in the run."""
    image_id: IntArray
    """int64 (B,)."""
    ids: Tensor
    """int64 (B, L)."""
    mask: Tensor
    """bool (B, L)."""


class Reader(Protocol):
    """A task's side of the loader. Can be pickled; what it returns depends on nothing but its arguments and the seed."""

    images: int
    """Images per sample."""

    def count(self, record: Record) -> int:
        """Samples of a record in an epoch, as its row of the index says."""

    def view(self, record: Record, number: int) -> View:
        """Images and text of a record's sample `number`; BadRecordError where it cannot be used."""

    def labels(self, samples: Samples) -> dict[str, Tensor]:
        """The labels of a micro-batch, each of B rows; a name must not be a field of Batch."""
