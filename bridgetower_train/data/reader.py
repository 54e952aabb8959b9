"""What a task reads from a record, and the labels that it makes. Runs in loader workers, without the model.

Shapes: B samples, L text length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from bridgetower_train.config import RunLength
from bridgetower_train.data.order import IntArray
from bridgetower_train.data.shards import Record


class View(NamedTuple):
    """A sample's images and text, as stored in its record."""

    images: Sequence[bytes | memoryview]
    """Encoded images, as many as `Reader.images`."""
    text: str


@dataclass(frozen=True)
class Samples:
    """The samples of a micro-batch: what a reader makes labels from."""

    records: list[Record]
    numbers: list[int]
    """Which sample of its record each one is (a caption, a question, ...)."""
    sample_index: IntArray
    """int64 (B,): index of each sample in the run."""
    image_id: IntArray
    """int64 (B,)."""
    ids: Tensor
    """int64 (B, L)."""
    mask: Tensor
    """bool (B, L)."""
    length: RunLength | None = None
    """Of the run; None in validation."""


class Reader(Protocol):
    """A task's part of the loader. Can be pickled; its results depend only on its arguments and the seed."""

    images: int
    """Images per sample."""

    def count(self, record: Record) -> int:
        """Samples of a record per epoch, as its row of the index states."""

    def view(self, record: Record, number: int) -> View:
        """Images and text of sample `number` of a record; BadRecordError if it cannot be used."""

    def labels(self, samples: Samples) -> dict[str, Tensor]:
        """The labels of a micro-batch, B rows each; their names must differ from the fields of Batch."""
