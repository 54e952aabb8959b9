"""Checks that all ranks together read an epoch exactly once."""

import itertools
import math

import numpy as np
import numpy.typing as npt

from bridgetower_train.data.loader import RankSamples
from bridgetower_train.data.order import Order
from bridgetower_train.errors import UserError

Counts = npt.NDArray[np.uint8]


def check_coverage(order: Order, world_size: int, micro_batch: int, accumulation: int) -> tuple[int, int]:
    """Walk the first epoch of each of `world_size` ranks, by the positions that its loader would request.

    Returns the samples that the ranks read, and those that sit out, fewer than there are lanes.
    UserError if a sample is read more often than its corpus's weight says, or if more are missing than the remainder that no lane
    takes. Needs 8 bytes of memory per record and one per pair.
    """
    begins = [_first_pairs(order, corpus) for corpus in range(len(order.corpora))]
    counts: list[Counts] = [np.zeros(begin[-1], dtype=np.uint8) for begin in begins]
    steps = -(-order.lane_samples // order.samples_per_lane)
    read = 0
    for rank in range(world_size):
        batches = RankSamples(rank, world_size, micro_batch, accumulation, 0)
        positions = itertools.chain.from_iterable(itertools.islice(batches, steps * accumulation))
        epoch, corpus, row, caption = order.columns(np.fromiter(positions, dtype=np.int64))
        read += int((epoch == 0).sum())
        for number, (begin, count) in enumerate(zip(begins, counts, strict=True)):
            here = (corpus == number) & (epoch == 0)
            place = begin[row[here]] + (caption[here] if order.captions == "all" else 0)
            np.add.at(count, place, 1)
    left_out = sum(_missing(order, corpus, count) for corpus, count in enumerate(counts))
    if read != order.epoch_samples or left_out >= order.lanes:
        raise UserError(
            f"coverage: {world_size} ranks read {read:,} samples of an epoch of {order.epoch_samples:,}, and {left_out:,} "
            f"are read too rarely; at most {order.lanes - 1} may sit out. This is a bug: report it with the configuration"
        )
    return read, left_out


def _first_pairs(order: Order, corpus: int) -> npt.NDArray[np.int64]:
    """Index of each record's first pair in its corpus, and the total; with one caption per image, of the record itself."""
    source = order.corpora[corpus]
    if order.captions == "one":
        return np.arange(len(source.index) + 1)
    begin = np.zeros(len(source.index) + 1, dtype=np.int64)
    np.cumsum(source.index["captions"], out=begin[1:])
    return begin


def _missing(order: Order, corpus: int, count: Counts) -> int:
    """How many reads of a corpus are missing; UserError if a sample is read too often."""
    weight = order.weights[corpus]
    if count.max() > math.ceil(weight):
        raise UserError(
            f"coverage: {int((count > math.ceil(weight)).sum()):,} samples of {order.corpora[corpus].name} are read more than "
            f"{math.ceil(weight)} times in an epoch. This is a bug: report it with the configuration"
        )
    return round(weight * len(count)) - int(count.sum(dtype=np.int64))
