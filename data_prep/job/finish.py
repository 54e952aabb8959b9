"""From shards and their logs to a complete corpus: which ranges are finished, and index and manifest of all of them."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from bridgetower_train.data.manifest import Manifest, ShardInfo
from bridgetower_train.data.shards import INDEX_DTYPE
from bridgetower_train.errors import DataError, FileError
from data_prep.job.log import Logged, RangeSummary, log_name, read_from, read_log, read_summary
from data_prep.job.shard_range import SPOOL, Work
from data_prep.shards.output import Output
from data_prep.shards.writer import Rows, write_index
from data_prep.source.repeats import Hashes
from data_prep.source.rows import OK

_READS_AT_ONCE = 16


def finished(output: Output) -> dict[int, dict[str, int]]:
    """Number -> state -> rows, of the ranges with a log and an intact shard. One that lost bytes is written again."""
    tars = output.sizes()
    stems = [name.removesuffix(".parquet") for name in output.sizes("log") if name.endswith(".parquet")]
    numbers = sorted(int(stem) for stem in stems if stem.isdecimal())
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        summaries = pool.map(lambda number: _read_summary(output, number), numbers)
        found = zip(numbers, summaries, strict=True)
        return {number: summary.states for number, summary in found if summary and _is_intact(summary, tars.get)}


def summary_of(output: Output, number: int) -> RangeSummary | None:
    """The result of a range; None where it is not finished."""
    summary = _read_summary(output, number)
    return summary if summary and _is_intact(summary, output.size) else None


def _read_summary(output: Output, number: int) -> RangeSummary | None:
    try:
        with output.open(log_name(number)) as file:
            return read_summary(file)
    except (pa.ArrowException, FileError, FileNotFoundError):  # empty, torn by a crash of the machine, or no log
        return None


def _is_intact(summary: RangeSummary, size: Callable[[str], int | None]) -> bool:
    return summary.shard is None or size(summary.shard.name) == summary.shard.bytes


def finish(work: Work, ranges: Iterable[int], extra: dict[str, Any]) -> Manifest:
    """Merge the logs of `ranges`, in order, into `index.npy` and, last, `manifest.json`. DataError where no row has an image."""
    merged = _Merged()
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        for logged in pool.map(lambda number: read_from(work.output, number, read_log, "it,"), ranges):
            merged.add(logged)
    states = dict(sorted((+merged.states).items()))
    dropped = {state: rows for state, rows in states.items() if state != OK}
    if OK not in states:
        found = ", ".join(f"{state}: {count:,}" for state, count in Counter(dropped).most_common())
        raise DataError(f"{work.corpus}: none of the rows gave an image; {found or 'the source has no rows'}")
    folder = work.scratch / SPOOL
    folder.mkdir(exist_ok=True)
    manifest = write_index(
        folder,
        np.concatenate(merged.parts),
        corpus=work.corpus,
        image_size=work.size or merged.size,
        caption_member="json",
        shards=merged.shards,
        dropped=dropped,
        extra={**extra, **merged.notes, "rows": sum(states.values()), "states": states},
    )
    for name in ("index.npy", "manifest.json"):
        work.output.take(folder / name, name)
    shutil.rmtree(folder, ignore_errors=True)  # on NFS what is being read stays; the corpus is complete
    return manifest


class _Merged:
    """What the logs of all ranges say, added in their order."""

    def __init__(self) -> None:
        self.shards: list[ShardInfo] = []
        self.parts: list[Rows] = [np.zeros(0, INDEX_DTYPE)]
        """Of the index, with the number of their shard."""
        self.states = Counter[str]()
        self._edges = Counter[int]()
        self._hashes: list[Hashes] = []
        self._urls: list[Hashes] = []

    def add(self, logged: Logged) -> None:
        """Add a range."""
        summary, rows, urls, images = logged
        self.states.update(summary.states)
        self.states.subtract(summary.before)
        self._edges.update(summary.edges)
        self._urls.append(urls)
        self._hashes.append(images)
        if summary.shard is not None:
            rows["shard"] = len(self.shards)
            self.shards.append(summary.shard)
            self.parts.append(rows)

    @property
    def size(self) -> int | None:
        """Shorter edge of every image, pixels; None where they differ."""
        return next(iter(self._edges)) if len(self._edges) == 1 else None

    @property
    def notes(self) -> dict[str, Any]:
        """For the manifest: how many images repeat the URL or the original of an earlier one, and the edges that there are."""
        repeated = {"url": _repeated(self._urls), "image": _repeated(self._hashes)}
        edges = {str(edge): self._edges[edge] for edge in sorted(self._edges)} if len(self._edges) > 1 else {}
        notes = {"duplicates": {kind: count for kind, count in repeated.items() if count}, "edges": edges}
        return {name: note for name, note in notes.items() if note}


def _repeated(hashes: list[Hashes]) -> int:
    known = np.concatenate(hashes)
    return len(known) - len(np.unique(known))
