"""The preparation of a corpus: ranges of a source's rows become shards, whatever interrupts it.

A table is cut into ranges of `records_per_shard` rows, a set of tars into its tars; range i becomes the shard `00000i.tar` and
its log, which depend only on the range's rows and images. The outcome of a row is spooled as soon as it is known (`spool.py`),
so a run that was stopped or killed resumes where it was, and writes the same bytes as an undisturbed one.
"""

import errno
import itertools
import signal
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing import active_children
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from bridgetower_train.config import at_least, one_of
from bridgetower_train.data.manifest import Manifest
from bridgetower_train.data.roots import is_remote
from bridgetower_train.display import plural, print_line
from bridgetower_train.errors import ConfigError, DataError
from bridgetower_train.lock import hold
from bridgetower_train.signals import Signals
from data_prep.job.again import RANGES, parts_again, rows_again
from data_prep.job.finish import finish, finished
from data_prep.job.preparation import Preparation
from data_prep.job.progress import Progress
from data_prep.job.shard_range import ShardRange, Work
from data_prep.parallel import cores, map_ahead
from data_prep.shards.output import Output
from data_prep.shards.summary import summarize
from data_prep.shards.writer import DUPLICATE_KEY
from data_prep.source.rows import OK, Images, Outcome, Part, PartError, Parts, Row, Table, TableParts

NO_FILES: Mapping[str, str] = MappingProxyType({})

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)


@dataclass(frozen=True)
class PrepConfig:
    """Keys of every preparation."""

    out: str = "???"
    """Folder, or fsspec URL such as s3://bucket/data, in which to put the corpus folder."""
    name: str = "???"
    """Name of the corpus folder."""
    size: int = 294
    """Shorter edge of the written images, pixels: the image size of the model that will be trained."""
    workers: int = 0
    """Processes that decode, resize and encode: 0 takes all cores, or one per task with engine=ray. The output does not
    depend on it."""
    engine: str = "local"
    """`local`: this machine. `ray`: a Ray cluster (RAY_ADDRESS, else one is started here), a task per shard; `out` must
    then be a folder that all nodes share, or a URL."""
    scratch: str | None = None
    """Local folder for unfinished shards; null: inside the corpus folder. Needed where `out` is a URL."""

    def __post_init__(self) -> None:
        at_least("size", self.size, 1)
        at_least("workers", self.workers, 0)
        one_of("engine", self.engine, ("local", "ray"))
        if is_remote(self.out) and self.scratch is None:
            raise ConfigError(f"out={self.out}: is remote; set scratch to a local folder for unfinished shards")
        object.__setattr__(self, "workers", self.workers or (cores() if self.engine == "local" else 1))


@dataclass(frozen=True)
class JobConfig(PrepConfig):
    """Keys of the preparations of a table."""

    records_per_shard: int = 1000
    """Rows of the source per shard, which contains the images that these rows gave."""
    again: list[str] = field(default_factory=list)
    """States, such as [429, 503, timeout], whose rows are tried again, into further shards; in a complete corpus too. Runs that
    train on it cannot resume then, since its index changes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("records_per_shard", self.records_per_shard, 1)
        for state in (OK, DUPLICATE_KEY):
            if state in self.again:
                raise ConfigError(
                    f"again={state}: an image would be in the corpus twice; name states of rows without one"
                )


class _StoppedError(KeyboardInterrupt):
    """The job received a signal to end: its number."""


def run_job(
    config: JobConfig,
    table: Table,
    images: Images,
    about: dict[str, str],
    extra: dict[str, Any] | None = None,
    one_size: bool = True,
    files: Mapping[str, str] = NO_FILES,
) -> Manifest:
    """Prepare the corpus of `table`, or resume it; see `run_parts`."""
    step = config.records_per_shard
    settings = {"size": config.size, "records_per_shard": step}
    return run_parts(config, TableParts(table, step), images, about, extra, settings, one_size, config.again, files)


def run_parts(
    config: PrepConfig,
    parts: Parts,
    images: Images,
    about: dict[str, str],
    extra: dict[str, Any] | None,
    settings: dict[str, Any],
    one_size: bool = True,
    again: Sequence[str] = (),
    files: Mapping[str, str] = NO_FILES,
) -> Manifest:
    """Prepare the corpus of `parts`, or resume it; a complete one stays as it is.

    `about`: title, homepage, licence and note of the source. `extra`: more for the manifest. `settings`: on what the corpus
    depends besides its source. `one_size`: all images have the shorter edge `config.size`. `again`: as the key, for a table.
    `files`: name -> text of further files of the corpus.
    A signal that asks the process to end ends it with 128 + signal: 143 for SIGTERM, 130 for SIGINT. UserError where another run
    has locked the folder, DataError where source
    or settings are not those of the earlier run, where no row gives an image, where a part cannot be read, and where the disk is
    full or read-only.
    """
    output = Output(config.out, config.name)
    preparation = Preparation(settings, parts.identity())
    scratch = output.local
    if config.scratch is not None:  # several jobs may share it, and it may outlast their output
        scratch = Path(config.scratch, f"{config.name}-{preparation.digest(output)}")
    assert scratch is not None
    try:
        with hold(output.local or scratch, "out" if output.local else "scratch"), Signals(_stop):
            work = Work(output, scratch, config.name, config.size if one_size else None)
            return _run(config, parts, images, work, preparation, {**(extra or {}), "about": about}, again, files)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise DataError(
            f"out={output}: {error.strerror}{f' ({error.filename})' if error.filename else ''}; what was written is intact; "
            "make room or fix the permissions, and run the same command to resume"
        ) from error
    except _StoppedError as stop:
        for child in active_children():  # exit would wait for one that the signal has separated from its pool
            child.kill()
        (signum,) = stop.args
        print(f"{config.name}: stopped by {signal.Signals(signum).name}; run the same command to resume", flush=True)
        raise SystemExit(128 + signum) from None


def _run(
    config: PrepConfig,
    parts: Parts,
    images: Images,
    work: Work,
    preparation: Preparation,
    extra: dict[str, Any],
    again: Sequence[str],
    files: Mapping[str, str],
) -> Manifest:
    first = len(parts)
    extra = {**extra, "source": preparation.source}
    manifest = preparation.whole(work.output)
    if manifest is None:
        preparation.begin(work.output)
        for name, text in files.items():
            work.output.write(name, text)
        done = finished(work.output)
        progress = Progress(config.name, parts.total, first)
        for number, states in done.items():
            if number < first:
                progress.expect(sum(states.values()))
                progress.resume(states)
        todo = (parts.part(number) for number in range(first) if number not in done)
        _prepare_parts(config, todo, parts.ahead, images, work, progress)
        manifest = _finish(work, preparation, extra, first, {*range(first), *done})
    elif not again:
        print_line(f"{config.name}: {work.output} already contains these {manifest.images:,} images")
    if again:
        assert isinstance(parts, TableParts)
        complete = max(first, manifest.extra.get(RANGES, 0))
        done = finished(work.output)
        chosen = rows_again(work.output, done, (first, complete), again)
        if not chosen and all(number < complete for number in done):
            print_line(f"{config.name}: no row ended in again={', '.join(again)}")
            return manifest
        further = parts_again(parts.table, chosen, complete, done, parts.step)
        _prepare_parts(config, further, parts.ahead, images, work, Progress(config.name, len(chosen)))
        manifest = _finish(work, preparation, extra, first, finished(work.output))
    return manifest


def _finish(
    work: Work, preparation: Preparation, extra: dict[str, Any], first: int, numbers: Iterable[int]
) -> Manifest:
    """Merge the ranges, `first` of which are the first pass."""
    ranges = sorted(numbers)
    further = {RANGES: ranges[-1] + 1} if ranges and ranges[-1] >= first else {}
    manifest = finish(work, ranges, {**extra, **further})
    preparation.end(work.output)
    print(summarize(manifest, str(work.output)))
    return manifest


def _prepare_parts(
    config: PrepConfig, parts: Iterator[Part], ahead: int, images: Images, work: Work, progress: Progress
) -> None:
    """DataError, once the others are done, where one cannot be read."""
    if config.engine == "ray":
        from data_prep.job.ray_engine import prepare_ranges  # Ray is optional, and slow to import

        unread = prepare_ranges(parts, images, work, config.workers, progress)
    else:
        unread = _prepare_ranges(parts, ahead, images, work, progress)
    progress.close()
    if unread:
        raise DataError(
            f"{config.name}: {plural(len(unread), 'part')} of the source cannot be read: {unread[0]}; the others are done: run "
            "the same command to resume"
        )


def _prepare_ranges(
    parts: Iterator[Part], ahead: int, images: Images, work: Work, progress: Progress
) -> list[PartError]:
    """One stream of images through all ranges, so that no shard waits for the slowest image of the previous one.

    Returns why some cannot be read.
    """
    unread: list[PartError] = []
    waiting: dict[int, tuple[ShardRange, int]] = {}
    tickets = itertools.count()

    def read(part: Part) -> ShardRange | PartError:
        shard = ShardRange(work, part)
        try:
            shard.read()
        except PartError as error:
            shard.close()
            return error
        return shard

    def rows() -> Iterator[tuple[int, Row]]:
        for shard in map_ahead(read, parts, ahead):
            if isinstance(shard, PartError):
                unread.append(shard)
                continue
            progress.expect(shard.rows)
            progress.resume(shard.states)
            if not shard.missing:
                shard.finish()
            for number, row in list(shard.missing.items()):
                ticket = next(tickets)
                waiting[ticket] = shard, number
                yield ticket, row

    with closing(cast("Generator[tuple[int, Outcome]]", images.outcomes(rows()))) as outcomes:
        for ticket, outcome in outcomes:
            shard, number = waiting.pop(ticket)
            shard.add(number, outcome)
            progress.update({outcome.state: 1})
            if not shard.missing:
                shard.finish()
    assert not waiting, f"{len(waiting)} rows have no outcome"
    return unread


def _stop(signum: int) -> None:
    raise _StoppedError(signum)
