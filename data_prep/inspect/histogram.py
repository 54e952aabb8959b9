"""Counts of whole numbers, such as the lengths of captions, in constant memory."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]

LIMIT = 16_384
"""Larger values are counted as this one; the largest is kept besides."""


@dataclass
class Histogram:
    """How often each value from 0 to LIMIT occurred."""

    counts: Counts = field(default_factory=lambda: np.zeros(LIMIT + 1, np.int64))
    largest: int = 0
    sum: int = 0

    def add(self, values: npt.ArrayLike) -> None:
        """Count more values, none below 0."""
        array = np.asarray(values, dtype=np.int64)
        if len(array):
            self.counts += np.bincount(np.minimum(array, LIMIT), minlength=LIMIT + 1)
            self.largest = max(self.largest, int(array.max()))
            self.sum += int(array.sum())

    def merge(self, other: "Histogram") -> None:
        """Count what another has counted."""
        self.counts += other.counts
        self.largest = max(self.largest, other.largest)
        self.sum += other.sum

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Their mean; 0 where there are none."""
        return self.sum / max(self.total, 1)

    def quantile(self, share: float) -> int:
        """The smallest value that at least `share` of all do not exceed."""
        return int(np.searchsorted(np.cumsum(self.counts), max(1, share * self.total)))

    def above(self, value: int) -> int:
        """How many are larger than `value`, which is below LIMIT."""
        return int(self.counts[value + 1 :].sum())
