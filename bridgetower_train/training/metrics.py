"""One record per logged step, and its sinks: JSON lines first, then the console and TensorBoard; `tracking` opens them."""

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from bridgetower_train.data.batch import BadRecord
from bridgetower_train.display import print_line, printable
from bridgetower_train.distributed import Ranks
from bridgetower_train.engines.stopwatch import Stopwatch
from bridgetower_train.errors import FileError
from bridgetower_train.evaluation.base import Picture
from bridgetower_train.files import Appending, atomic_write
from bridgetower_train.foreign import parse_json, read_lines

LogRecord = dict[str, Any]

METRICS, BAD_SAMPLES = "metrics.jsonl", "bad_samples.jsonl"
"""Files of a run that have a JSON object in each line, with its `step`."""

SLOW = 0.25
"""Share of its time over the median from which on a rank is named on the console."""


def to_host(metrics: dict[str, Tensor], ranks: Ranks) -> dict[str, float]:
    """Device scalars, averaged over ranks and copied to the host at once."""
    values = torch.stack([value.float() for value in metrics.values()])
    if ranks.world_size > 1:
        dist.all_reduce(values)
        values = values / ranks.world_size
    return dict(zip(metrics, values.tolist(), strict=True))


class StepTimer:
    """Measures the time between two log lines, how much of it was spent waiting for data, and which rank was the slowest."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self._stopwatch = stopwatch
        self.restart()

    def restart(self) -> None:
        """Start a new interval."""
        self._began, self._waited, self._steps, self._flops = time.perf_counter(), 0.0, 0, 0.0
        self._stopwatch.restart()

    def waited(self, seconds: float) -> None:
        """Count a step that waited `seconds` for data."""
        self._waited += seconds
        self._steps += 1

    def computed(self, flops: float) -> None:
        """Count the FLOPs of a step."""
        self._flops += flops

    def flops_per_second(self) -> float:
        """Of this rank since the last restart."""
        return self._flops / (time.perf_counter() - self._began)

    def span(self) -> tuple[float, float]:
        """(seconds per step, fraction of them spent waiting for data) since the last restart."""
        elapsed = time.perf_counter() - self._began
        return elapsed / self._steps, self._waited / elapsed

    def slowest(self, ranks: Ranks) -> dict[str, float]:
        """The rank that took longest by itself, reading and in forward passes, where all then waited for it; empty for one rank.

        Its number, its seconds per step, those of them in which it waited for data, and its share over the median of all ranks.
        A small collective; the device has finished its work.
        """
        if ranks.world_size == 1:
            return {}
        rows_W2 = np.zeros((ranks.world_size, 2))
        waited = self._waited / self._steps
        rows_W2[ranks.rank] = waited + self._stopwatch.seconds() / self._steps, waited
        taken_W, waited_W = ranks.add_up(rows_W2).T
        slowest, median = int(taken_W.argmax()), float(np.median(taken_W))
        return {
            "slowest_rank": slowest,
            "slowest_s": float(taken_W[slowest]),
            "slowest_data_s": float(waited_W[slowest]),
            "slowest_share": float(taken_W[slowest]) / median - 1 if median else 0.0,
        }


class Sink(Protocol):
    """A destination for the records of a run."""

    def write(self, record: LogRecord) -> None:
        """Show or store one record."""

    def close(self, failed: bool) -> None:
        """Finish; `failed`: the run ended with an error."""


@runtime_checkable
class Gallery(Protocol):
    """A sink that shows images too."""

    def show(self, step: int, pictures: dict[str, list[Picture]]) -> None:
        """A few examples by the name of the evaluation, after the record of the validation of `step`."""


class JsonLines:
    """A file of one line per record, written at once; the next start drops half a line."""

    def __init__(self, path: Path) -> None:
        self._file = Appending(path)

    def write(self, record: LogRecord) -> None:
        self._file.write((json.dumps(record) + "\n").encode())

    def close(self, failed: bool = False) -> None:
        self._file.close()


@dataclass(frozen=True)
class _Line:
    """What decides whether a line is kept."""

    step: int


def keep_lines_until(path: Path, step: int, most: int | None = None) -> list[int]:
    """Drop the JSON lines beyond `step` and after the first `most`, and what is no such line: one was truncated if the run was
    killed.

    Returns the step of each line that is left. Afterwards it is a file of our own, not a link. FileError if it is a FIFO or the
    like, or far too long.
    """
    kept = [(found, line) for found, line in _whole_lines(path) if found <= step][:most]
    atomic_write(path, b"".join(line for _, line in kept))
    return [found for found, _ in kept]


def lines_after(path: Path, step: int) -> bytes:
    """The JSON lines beyond `step`; FileError as `keep_lines_until`."""
    return b"".join(line for found, line in _whole_lines(path) if found > step)


def _whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(step, line) of each JSON line that has a step; none where there is no file."""
    for line in read_lines(path) if os.path.lexists(path) else ():
        with suppress(FileError):
            yield parse_json(line, _Line, path.name).step, line.rstrip(b"\n") + b"\n"


def missing_lines(name: str, steps: list[int], expected: int, until: int) -> str | None:
    """What to say of a file that has lines of `steps`, where a run wrote `expected` until a step; None if there are as many."""
    if len(steps) >= expected:
        return None
    after, before = max(pairwise([0, *steps, until]), key=lambda pair: pair[1] - pair[0])
    return (
        f"{name}: {expected - len(steps)} of its {expected} lines up to step {until} are gone, since it was cut or damaged; the "
        f"widest gap is from step {after} to {before}"
    )


class TensorBoard:
    """Event files in `tensorboard/`, one for each start.

    Torch's writer would keep up to two minutes in memory, and report a full disk by a traceback of its thread.
    """

    def __init__(self, folder: Path, resume_step: int) -> None:
        """What the files have from after step `resume_step` is no longer shown."""
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}"
        self._file = Appending(folder / name)
        self._records = RecordWriter(self._file)  # type: ignore[no-untyped-call]
        self._add(resume_step + 1, file_version="brain.Event:2")
        self._add(resume_step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, record: LogRecord) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        figures = {k: v for k, v in record.items() if isinstance(v, (int, float)) and k not in ("step", "time")}
        values = [Summary.Value(tag=key, simple_value=value) for key, value in figures.items()]
        self._add(record["step"], summary=Summary(value=values))

    def close(self, failed: bool) -> None:
        self._file.close()

    def _add(self, step: int, **what: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        event = Event(wall_time=time.time(), step=step, **what)
        self._records.write(event.SerializeToString())  # type: ignore[no-untyped-call]


class Console:
    """A progress bar on a terminal, a plain line per record elsewhere; nothing if `quiet`, as on all ranks but the first."""

    def __init__(self, start: int, total: int, quiet: bool) -> None:
        self._start, self._total, self._quiet = start, total, quiet
        self._bar: tqdm[Any] | None = None
        self.last: LogRecord = {}
        """The newest value of each figure."""

    def advance(self) -> None:
        """Count a step; the first one opens the bar, below all that was said before."""
        if self._bar is None and sys.stderr.isatty() and not self._quiet:
            self._bar = tqdm(total=self._total, initial=self._start, unit="step", dynamic_ncols=True)
        if self._bar is not None:
            self._bar.update()

    def log(self, text: str) -> None:
        """Print a line without breaking the progress bar."""
        if self._bar is not None:
            self._bar.write(printable(text))
        elif not self._quiet:
            print_line(text)

    def write(self, record: LogRecord) -> None:
        self.last |= record
        if "loss" not in record:
            shown = {k: f"{v:.3f}" if isinstance(v, float) else f"{v:,}" for k, v in record.items()}
            figures = "  ".join(f"{k} {v}" for k, v in shown.items() if k not in ("step", "time"))
            self.log(f"step {record['step']}  {figures}")
        elif self._bar is not None:
            self._bar.set_postfix_str(_rates(record))
        else:
            left = clock((self._total - record["step"]) * record["step_s"])
            print(f"step {record['step']}/{self._total}  {_rates(record)}  left {left}", flush=True)

    def close(self, failed: bool) -> None:
        if self._bar is not None:
            self._bar.close()


def _rates(record: LogRecord) -> str:
    """Losses, the learning rate, speed, and the slowest rank where that matters."""
    losses = "  ".join(f"{k[5:]} {v:.3f}" for k, v in record.items() if k.startswith("loss_"))
    share = record.get("slowest_share", 0.0)
    slow = f"  rank {record['slowest_rank']} takes {share:.0%} longer than the median" if share >= SLOW else ""
    return (
        f"loss {record['loss']:.4f}  {losses}  lr {record['lr']:.2e}  {record['samples_per_s']:.1f} samples/s  "
        f"data wait {record['data_wait']:.0%}{slow}"
    )


def clock(seconds: float) -> str:
    """h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


class BadSamples:
    """`bad_samples.jsonl`, and the number of records that it lists."""

    def __init__(self, file: JsonLines | None, ranks: Ranks, count: int) -> None:
        """`file`: None where none is written, as on all ranks but the first."""
        self.ranks, self.count = ranks, count
        self._file = file
        self.shards: list[str] = []
        """Shards in which there was one since this process started."""
        self._new: list[BadRecord] = []

    def add(self, records: list[BadRecord]) -> None:
        """Add the replaced records of a batch of this rank."""
        self._new += records

    def flush(self, step: int) -> list[BadRecord]:
        """Write and return the records that all ranks have added since the last call."""
        added: list[BadRecord] = []
        if self.ranks.total(len(self._new)):
            added = [record for part in self.ranks.gather_objects(self._new) for record in part]
            self.count += len(added)
            self.shards = list(dict.fromkeys([*self.shards, *(f"{r.corpus}/{r.shard}" for r in added)]))
            if self._file is not None:
                for record in added:
                    self._file.write({"step": step, **vars(record)})
        self._new = []
        return added

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()
