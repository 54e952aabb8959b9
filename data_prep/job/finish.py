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
from data_prep.job.log import RangeSummary, log_name, read_index, read_summary
from data_prep.job.output import Output
from data_prep.job.shard_range import SPOOL, Work
from data_prep.shards.writer import Rows, write_index
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

    def read(number: int) -> tuple[RangeSummary, Rows]:
        name = log_name(number)
        try:
            with work.output.open(name) as file:
                return read_index(file)
        except (pa.ArrowException, FileError, OSError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"{work.output}/{name}: cannot be read ({reason}); remove it, and run the same command to write it again"
            ) from None

    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        shards, parts, states = _merge(pool.map(read, ranges))
    states = +states
    ok = states.pop(OK, 0)
    if not ok:
        found = ", ".join(f"{state}: {count:,}" for state, count in states.most_common())
        raise DataError(f"{work.corpus}: none of the rows gave an image; {found or 'the source has no rows'}")
    folder = work.scratch / SPOOL
    folder.mkdir(exist_ok=True)
    manifest = write_index(
        folder,
        np.concatenate(parts),
        corpus=work.corpus,
        image_size=work.size,
        caption_member="json",
        shards=shards,
        dropped=dict(sorted(states.items())),
        extra={**extra, "states": dict(sorted({**states, OK: ok}.items()))},
    )
    for name in ("index.npy", "manifest.json"):
        work.output.take(folder / name, name)
    shutil.rmtree(folder)
    return manifest


def _merge(found: Iterable[tuple[RangeSummary, Rows]]) -> tuple[list[ShardInfo], list[Rows], Counter[str]]:
    """The shards, the rows of the index with the number of their shard, and state -> rows."""
    shards: list[ShardInfo] = []
    parts, states = [np.zeros(0, INDEX_DTYPE)], Counter[str]()
    for summary, rows in found:
        states.update(summary.states)
        states.subtract(summary.before)
        if summary.shard is not None:
            rows["shard"] = len(shards)
            shards.append(summary.shard)
            parts.append(rows)
    return shards, parts, states
