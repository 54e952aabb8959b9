"""A range of a source's rows that becomes a shard."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from bridgetower_train.data.shards import INDEX_DTYPE
from data_prep.job.log import Line, RangeSummary, log_name, write_log
from data_prep.job.spool import Spool
from data_prep.shards.output import Output
from data_prep.shards.writer import NO_CAPTION, Shard
from data_prep.source.captions import tidy, tidy_text
from data_prep.source.rows import OK, Outcome, Part, Row

SPOOL = "spool"
"""Folder of unfinished files."""


@dataclass(frozen=True)
class Work:
    """What all ranges of a job share. It may be pickled."""

    output: Output
    scratch: Path
    """Folder of unfinished shards."""
    corpus: str
    size: int | None
    """Shorter edge of the images, pixels; None where they may differ."""


class ShardRange:
    """The rows of a part and their outcomes, those of earlier runs among them."""

    def __init__(self, work: Work, part: Part) -> None:
        """Waits while another process has the spool of the part."""
        self._work = work
        self._part = part
        self._path = work.scratch / SPOOL / f"{part.number:06d}"
        self._spool = Spool(self._path)
        self._rows: dict[int, Row] = {}
        self._edges = Counter[int]()  # shorter edge of the images, pixels -> images
        self.missing: dict[int, Row] = {}
        """Rows without an outcome so far."""
        self.states = Counter[str]()
        """State -> number of the other rows."""

    def read(self) -> None:
        """Read the rows. PartError."""
        self._rows = {number: _checked(row) for number, row in self._part.rows(self._path.parent).items()}
        self.missing = {n: row for n, row in self._rows.items() if not row.state and n not in self._spool}
        self.states.update(self._outcome(n).state for n in self._rows if n not in self.missing)

    @property
    def rows(self) -> int:
        """Number of all rows."""
        return len(self._rows)

    def add(self, row: int, outcome: Outcome) -> None:
        """Store the outcome of a missing row."""
        self._spool.add(row, outcome)
        del self.missing[row]

    def finish(self) -> dict[str, int]:
        """Write shard and log, once nothing is missing; state -> rows."""
        assert not self.missing
        name = f"{self._part.number:06d}.tar"
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
        edges = dict(sorted(self._edges.items()))
        write_log(log, lines, index, RangeSummary(info, states, edges, dict(self._part.before)))
        self._work.output.take(log, log_name(self._part.number))
        self.discard()
        return states

    def discard(self) -> None:
        """Drop it: the range is finished, here or by another process."""
        self._part.close()
        self._spool.remove()

    def close(self) -> None:
        """Leave it to a later run."""
        self._part.close()
        self._spool.close()

    def _outcome(self, number: int) -> Outcome:
        state = self._rows[number].state
        return Outcome(state) if state else self._spool.get(number)

    def _add_to(self, shard: Shard, number: int, row: Row) -> Line:
        state, detail, jpeg, meta, further = self._outcome(number)
        if state == OK:
            state = shard.add(row.key, jpeg, row.captions, {**row.meta, **meta}, row.kinds, further) or OK
        if state == OK:
            self._edges.update(min(simplejpeg.decode_jpeg_header(image)[:2]) for image in (jpeg, *further))
        original = meta.get("sha256"), meta.get("width"), meta.get("height")
        return Line(number, row.key, row.location, state, detail, *original)


def _checked(row: Row) -> Row:
    """The row with tidy captions, and with a state where there are none."""
    if "ids" in row.meta:  # those of a task's samples are none too few and none too many
        return row._replace(captions=[tidy_text(caption).strip() for caption in row.captions])
    captions = tidy(row.captions, row.kinds)
    state = row.state or ("" if captions else NO_CAPTION)
    return row._replace(captions=list(captions), kinds=list(captions.values()), state=state)
