"""A range of a table's rows that becomes a shard."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bridgetower_train.data.shards import INDEX_DTYPE
from data_prep.job.log import Line, RangeSummary, log_name, write_log
from data_prep.job.output import Output
from data_prep.job.spool import Spool
from data_prep.shards.writer import NO_CAPTION, Shard
from data_prep.source.captions import tidy
from data_prep.source.rows import OK, Outcome, Row

SPOOL = "spool"
"""Folder of unfinished files."""


@dataclass(frozen=True)
class Work:
    """What all ranges of a job share. It may be pickled."""

    output: Output
    scratch: Path
    """Folder of unfinished shards."""
    corpus: str
    size: int
    """Shorter edge of the images, pixels."""


class Part(NamedTuple):
    """Rows that become a shard."""

    number: int
    """Of the shard and its log."""
    rows: dict[int, Row]
    """Number in the source -> row."""
    before: dict[str, int] = {}  # noqa: RUF012
    """As in `RangeSummary`."""


class ShardRange:
    """The rows of a part and their outcomes, those of earlier runs among them."""

    def __init__(self, work: Work, part: Part) -> None:
        self._work = work
        self._number = part.number
        self._before = part.before
        self._path = work.scratch / SPOOL / f"{part.number:06d}"
        self._rows = {number: _checked(row) for number, row in part.rows.items()}
        self._spool = Spool(self._path)
        self.missing = {n: row for n, row in self._rows.items() if not row.state and n not in self._spool}
        """Rows without an outcome so far."""
        self.states = Counter(self._outcome(n).state for n in self._rows if n not in self.missing)
        """State -> number of the other rows."""

    def add(self, row: int, outcome: Outcome) -> None:
        """Store the outcome of a missing row."""
        self._spool.add(row, outcome)
        del self.missing[row]

    def finish(self) -> dict[str, int]:
        """Write shard and log, once nothing is missing; state -> rows."""
        assert not self.missing
        name = f"{self._number:06d}.tar"
        tar = self._path.with_suffix(".tar")
        shard = Shard(tar, name, self._work.corpus, self._work.size)
        lines = [self._add_to(shard, number, row) for number, row in self._rows.items()]
        states = dict(sorted(Counter(line.state for line in lines).items()))
        if len(shard):
            info, index = shard.finish()
            self._work.output.take(tar, name)
        else:
            shard.discard()
            info, index = None, np.zeros(0, INDEX_DTYPE)
        log = self._path.with_suffix(".parquet")
        write_log(log, lines, index, RangeSummary(info, states, self._before))
        self._work.output.take(log, log_name(self._number))
        self._spool.remove()
        return states

    def discard(self) -> None:
        """Drop it: another process has finished the range."""
        self._spool.remove()

    def close(self) -> None:
        """Leave it to a later run."""
        self._spool.close()

    def _outcome(self, number: int) -> Outcome:
        state = self._rows[number].state
        return Outcome(state) if state else self._spool.get(number)

    def _add_to(self, shard: Shard, number: int, row: Row) -> Line:
        state, detail, jpeg, meta = self._outcome(number)
        if state == OK:
            state = shard.add(row.key, jpeg, row.captions, {**row.meta, **meta}) or OK
        original = meta.get("sha256"), meta.get("width"), meta.get("height")
        return Line(number, row.key, row.location, state, detail, *original)


def _checked(row: Row) -> Row:
    """The row with tidy captions, and with a state where there are none."""
    captions = tidy(row.captions)
    return row._replace(captions=captions, state=row.state or ("" if captions else NO_CAPTION))
