"""The order of a run: which sample (an image with one of its captions) has each index, as a pure function of the seed.

Per epoch the shards of all corpora are permuted and cut into `lanes` equal parts; inside a lane, windows of samples are
permuted. Only a table of the epoch's shards and the windows in use are kept, so any sample can be looked up directly and
10^9 samples take no more memory than 10^6. For small corpora, all samples of an epoch can be permuted as a whole instead.
"""

import bisect
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bridgetower_train import random
from bridgetower_train.data.shards import Corpus
from bridgetower_train.errors import ConfigError, DataError

IntArray = npt.NDArray[np.int64]
MAX_WHOLE = 1 << 24
"""Most samples of an epoch that are permuted as a whole: their permutation takes 64 MB in each loader process."""
Window = tuple[int, int, int]
"""(epoch, lane, number within that lane) of a group of samples that are permuted together."""


class Sample(NamedTuple):
    """Sample number `sample_index` of the run: caption number `caption` of the record in row `row` of corpus number `corpus`."""

    sample_index: int
    epoch: int
    corpus: int
    row: int
    caption: int


@dataclass(frozen=True)
class _Epoch:
    """The segments of an epoch in order, each a run of a shard's samples from number `start` on.

    `begin` (one longer) is where each segment begins in the epoch.
    """

    corpus: IntArray
    shard: IntArray
    start: IntArray
    begin: IntArray

    def segment_of(self, offset: IntArray) -> IntArray:
        """The segments that contain samples number `offset` of the epoch."""
        return np.searchsorted(self.begin, offset, side="right") - 1


class Order:
    """Maps each sample index of a run to a sample; `take` does so for many at once, in a few microseconds each.

    Step t takes `samples_per_lane` samples from every lane: sample i belongs to step `i // global_batch` and to lane
    `i % global_batch // samples_per_lane`. `captions` is `all` (an epoch is every image with every caption once) or `one`
    (every image once, with one of its captions). `weights` are the passes over each corpus per epoch. With a fraction each
    epoch continues where the one before ended, so that after any number of epochs no sample was due more than once more
    than another. `shuffle` is `windows` or `whole`. Raises ConfigError if an epoch has fewer samples than lanes, or too many
    for `whole`.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        weights: Sequence[float],
        seed: int,
        lanes: int,
        samples_per_lane: int,
        captions: str,
        window: int,
        shuffle: str = "windows",
    ) -> None:
        assert len(corpora) == len(weights)
        assert captions in ("all", "one")
        self.corpora, self.weights, self.seed = list(corpora), list(weights), seed
        self.lanes, self.samples_per_lane, self.captions, self.window = lanes, samples_per_lane, captions, window
        self.shuffle, whole = shuffle, shuffle == "whole"
        self.global_batch = lanes * samples_per_lane
        self._counts = [self._shard_samples(corpus) for corpus in corpora]
        self._totals = [int(counts.sum()) for counts in self._counts]
        self._exact = [Fraction(repr(weight)) for weight in weights]
        due = [int(weight * total) for weight, total in zip(self._exact, self._totals, strict=True)]
        for corpus, weight, total, count in zip(corpora, weights, self._totals, due, strict=True):
            if count == 0:
                raise ConfigError(
                    f"data.corpora.{corpus.name}={weight:g}: gives no samples, since the corpus has only {total}; raise it"
                )
        samples = sum(due)  # with fractions some epochs have one more of a corpus, which is skipped
        if samples < lanes:
            raise ConfigError(f"data.lanes={lanes}: an epoch has only {samples} samples; take at most {samples} lanes")
        self.lane_samples = samples // lanes
        """Samples of one lane per epoch."""
        self.epoch_samples = self.lane_samples * lanes
        """Samples per epoch. The remainder, fewer than `lanes` and one per fraction, is skipped: different samples each epoch."""
        if whole and self.epoch_samples > MAX_WHOLE:
            raise ConfigError(
                f"data.shuffle=whole: is for at most {MAX_WHOLE:,} samples per epoch, and this one has "
                f"{self.epoch_samples:,}; use windows"
            )
        self._window = self.lane_samples if whole else window
        self._segments = lru_cache(2)(self._segments_of)
        self._permuted = lru_cache(lanes + 8)(self._permutation)
        self._whole = lru_cache(2)(self._whole_permutation)
        self._caption_begin = lru_cache(1024)(self._caption_begin_of)

    def __reduce__(self) -> tuple[Any, ...]:
        settings = (self.seed, self.lanes, self.samples_per_lane, self.captions, self.window, self.shuffle)
        return Order, (self.corpora, self.weights, *settings)

    @property
    def digest(self) -> str:
        """Hash of everything that the order depends on; it must not change on resume."""
        corpora = [[c.name, c.digest, weight] for c, weight in zip(self.corpora, self.weights, strict=True)]
        facts: list[Any] = [corpora, self.seed, self.lanes, self.samples_per_lane, self.captions, self.window]
        if any(weight % 1 for weight in self.weights):
            facts.append("continued")  # until 0.1 each epoch drew its part of the corpus anew
        if self.shuffle == "whole":
            facts.append("whole")
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def at(self, sample_index: int) -> Sample:
        """The sample of one index."""
        return self.take([sample_index])[0]

    def take(self, sample_indices: Sequence[int]) -> list[Sample]:
        """The samples of several indices."""
        columns = (np.asarray(sample_indices, dtype=np.int64), *self.columns(sample_indices))
        return [Sample(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]

    def columns(self, sample_indices: Sequence[int] | IntArray) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """(epoch, corpus, row, caption) of the samples of several indices, as arrays."""
        index = np.asarray(sample_indices, dtype=np.int64)
        lane, number = self._lane(index)
        epoch, offset = np.divmod(number, self.lane_samples)
        in_epoch = lane * self.lane_samples + self._shuffled(epoch, lane, offset)
        corpus, row, caption = (np.empty_like(index) for _ in range(3))
        for e in np.unique(epoch).tolist():
            table, here = self._segments(e), epoch == e
            segment = table.segment_of(in_epoch[here])
            within = in_epoch[here] - table.begin[segment] + table.start[segment]
            corpus[here] = table.corpus[segment]
            row[here], caption[here] = self._rows(index[here], table.corpus[segment], table.shard[segment], within)
        return epoch, corpus, row, caption

    def following(self, sample_index: int) -> Iterator[int]:
        """The indices of the samples that follow in the same lane, without end."""
        step, rest = divmod(sample_index, self.global_batch)
        lane, within = divmod(rest, self.samples_per_lane)
        for number in itertools.count(step * self.samples_per_lane + within + 1):
            step, within = divmod(number, self.samples_per_lane)
            yield step * self.global_batch + lane * self.samples_per_lane + within

    def window_of(self, sample_index: int) -> Window:
        """The window that contains a sample."""
        lane, number = (int(value) for value in self._lane(np.int64(sample_index)))
        epoch, offset = divmod(number, self.lane_samples)
        return epoch, lane, offset // self._window

    def shards_ahead(self, of: Window) -> list[tuple[int, int]]:
        """The (corpus, shard) that a window and the next one of its lane read, in that order; of a whole epoch, all of them."""
        epoch, lane, window = of
        last = (window + 1) * self._window >= self.lane_samples
        following = (epoch + 1, lane, 0) if last else (epoch, lane, window + 1)
        shards: dict[tuple[int, int], None] = {}
        for e, _, w in (of, following):
            table = self._segments(e)
            begin = lane * self.lane_samples + w * self._window
            end = min(begin + self._window, (lane + 1) * self.lane_samples)
            if self.shuffle == "whole":
                begin, end = 0, self.epoch_samples
            low, high = table.segment_of(np.array([begin, end - 1]))
            read = zip(table.corpus[low : high + 1].tolist(), table.shard[low : high + 1].tolist(), strict=True)
            shards.update(dict.fromkeys(read))
        return list(shards)

    def _lane(self, sample_index: Any) -> tuple[Any, Any]:
        """Lane of each sample, and its number within the lane, counted over the whole run."""
        step, rest = np.divmod(sample_index, self.global_batch)
        lane, within = np.divmod(rest, self.samples_per_lane)
        return lane, step * self.samples_per_lane + within

    def _shard_samples(self, corpus: Corpus) -> IntArray:
        if self.captions == "one":
            return np.diff(corpus.shard_rows).astype(np.int64)
        return np.fromiter((shard.captions for shard in corpus.manifest.shards), dtype=np.int64)

    def _shuffled(self, epoch: IntArray, lane: IntArray, offset: IntArray) -> IntArray:
        """Which sample, by its place in the lane's part of the epoch, comes as number `offset` of the lane."""
        if self.shuffle == "whole":
            places = zip(epoch.tolist(), (lane * self.lane_samples + offset).tolist(), strict=True)
            return np.array([int(self._whole(e)[p]) for e, p in places], dtype=np.int64) - lane * self.lane_samples
        window, inside = np.divmod(offset, self.window)
        keys = zip(epoch.tolist(), lane.tolist(), window.tolist(), inside.tolist(), strict=True)
        permuted = [int(self._permuted(e, n, w)[i]) for e, n, w, i in keys]
        return window * self.window + np.array(permuted, dtype=np.int64)

    def _whole_permutation(self, epoch: int) -> npt.NDArray[Any]:
        return random.permutation(self.seed, "order.whole", self.epoch_samples, epoch).astype(np.uint32)

    def _permutation(self, epoch: int, lane: int, window: int) -> npt.NDArray[Any]:
        size = min(self.window, self.lane_samples - window * self.window)
        order = random.permutation(self.seed, "order.window", size, epoch, lane, window)
        return order.astype(np.min_scalar_type(size))

    def _segments_of(self, epoch: int) -> _Epoch:
        parts: list[tuple[IntArray, IntArray, IntArray, IntArray]] = []
        for corpus, (total, weight) in enumerate(zip(self._totals, self._exact, strict=True)):
            low, high = (int(e * total * weight) for e in (epoch, epoch + 1))
            for number in range(low // total, -(-high // total)):
                before = number * total
                parts.append(self._pass(corpus, number, max(low - before, 0), min(high - before, total)))
        corpora, shards, starts, sizes = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = random.permutation(self.seed, "order.segments", len(sizes), epoch)
        begin = np.concatenate([[0], np.cumsum(sizes[order])])
        assert begin[-1] >= self.epoch_samples
        return _Epoch(corpora[order], shards[order], starts[order], begin)

    def _pass(self, corpus: int, number: int, low: int, high: int) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """Samples `low` to `high` of pass `number` over a corpus, as (corpus, shard, first and number of its samples)."""
        counts = self._counts[corpus]
        shards = np.arange(len(counts))
        if high - low < self._totals[corpus]:  # the order of a whole pass does not matter: segments are permuted
            shards = random.permutation(self.seed, "order.pass", len(counts), number, corpus)
        end = np.cumsum(counts[shards])
        begin = end - counts[shards]
        first, last = np.clip(begin, low, high), np.clip(end, low, high)
        used = (last > first) | (counts[shards] == 0) & (high - low == self._totals[corpus])
        return corpus + 0 * shards[used], shards[used], (first - begin)[used], (last - first)[used]

    def _rows(
        self, sample_index: IntArray, corpus: IntArray, shard: IntArray, within: IntArray
    ) -> tuple[IntArray, IntArray]:
        """Row and caption of samples number `within` of their shards."""
        record, caption = within, np.empty_like(within)
        if self.captions == "all":
            keys = zip(corpus.tolist(), shard.tolist(), within.tolist(), strict=True)
            begins = [(self._caption_begin(c, s), w) for c, s, w in keys]
            record = np.array([bisect.bisect_right(begin, w) - 1 for begin, w in begins])
            caption = within - [begin[r] for (begin, _), r in zip(begins, record.tolist(), strict=True)]
        row = np.empty_like(within)
        for c in np.unique(corpus).tolist():
            here = corpus == c
            row[here] = self.corpora[c].shard_rows[shard[here]] + record[here]
            if self.captions == "one":
                counts = self.corpora[c].index["captions"][row[here]]
                caption[here] = random.below(self.seed, "order.caption", counts, sample_index[here])
        return row, caption

    def _caption_begin_of(self, corpus: int, shard: int) -> memoryview:
        """Number of each record's first caption within its shard, and the total."""
        source = self.corpora[corpus]
        low, high = source.shard_rows[shard : shard + 2]
        begin = np.concatenate([[0], np.cumsum(source.index["captions"][low:high])]).astype(np.int32)
        if begin[-1] != self._counts[corpus][shard]:
            raise DataError(
                f"{source.name}: shard {shard} has {self._counts[corpus][shard]} captions by the manifest but "
                f"{begin[-1]} by the index; rebuild both with `bridgetower prep index`"
            )
        return begin.data  # for one number, bisect on this is faster than numpy
