"""Embeddings of many images or texts, to a file: in parts that survive a kill, shared among ranks, never all in memory.

Shapes: B items at once, E width of the embeddings.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from tqdm import tqdm

from bridgetower_train.data.shards import BadRecordError
from bridgetower_train.display import listed
from bridgetower_train.distributed import ALONE, Ranks
from bridgetower_train.errors import ConfigError, DataError
from bridgetower_train.files import atomic_write, own_folder, replacing
from bridgetower_train.foreign import read_bytes
from bridgetower_train.lock import hold
from bridgetower_train.use.images import as_seen
from bridgetower_train.use.index import About, below, read_about, table, write
from bridgetower_train.use.model import Model
from bridgetower_train.use.sources import Source

PART = 512
"""Items of a part, which is what a kill may lose."""
_PARTS_AT_ONCE = 16  # become a row group of the file
_LEFT_OUT = b"left_out"
_PLAN, _MAX_PLAN = "plan.json", 1 << 16
_DECODERS = max(1, min(8, len(os.sched_getaffinity(0))))


class Embedded(NamedTuple):
    """What `embed` wrote."""

    total: int
    """Embeddings in the file."""
    left_out: dict[str, str]
    """Key of an image -> why it could not be used; the first ones."""
    written: bool = True
    """False where it was there already."""


def embed(
    model: Model, source: Source, out: Path, dtype: str = "float32", batch: int = 64, ranks: Ranks = ALONE
) -> Embedded:
    """Write the embeddings of `source` to `out`, a .parquet or .npy, which is there whole at the end or not at all.

    The same call resumes where it was stopped: parts that are done lie in a folder beside `out`. Ranks share the parts, in a
    folder that all of them see. ConfigError where `out` is something else; DataError where nothing can be embedded.
    """
    about = About(
        kind="texts" if source.images is None else "images",
        model=model.saved.source,
        step=model.saved.step,
        weights=model.fingerprint,
        source=source.digest,
        dtype=dtype,
        width=len(model.embedder.model.head("itc_text_head").fc.weight),
        folder=below(source.folder, out),
        corpus=source.corpus,
    )
    there = ranks.on_main(lambda: read_about(out))
    if there is not None and replace(there, left_out=0, model=about.model) == about:
        return Embedded(source.count - there.left_out, {}, written=False)
    if ranks.on_main(out.exists):
        raise ConfigError(f"out={out}: is there already, with something else; remove it, or choose another file")
    parts = out.with_name(f".{out.name}.parts")
    with contextlib.ExitStack() as stack:
        ranks.on_main(lambda: _prepare(parts, about, source.count, stack))
        _embed_parts(model, source, parts, about, batch, ranks)
        ranks.barrier()
        found = ranks.on_main(lambda: _join(parts, source, out, about))
    if ranks.is_main:
        shutil.rmtree(parts, ignore_errors=True)
    return found


def _prepare(parts: Path, about: About, count: int, stack: contextlib.ExitStack) -> None:
    """The folder of the parts, locked; those of another index are removed."""
    own_folder(parts)
    stack.enter_context(hold(parts, "out"))
    plan = json.dumps([asdict(about), count, PART]).encode()
    with contextlib.suppress(FileNotFoundError):
        if read_bytes(parts / _PLAN, _MAX_PLAN) == plan:
            return
    for path in parts.glob("*.parquet"):
        path.unlink()
    atomic_write(parts / _PLAN, plan)


def _part(parts: Path, number: int) -> Path:
    return parts / f"{number:08d}.parquet"


def _embed_parts(model: Model, source: Source, parts: Path, about: About, batch: int, ranks: Ranks) -> None:
    """Write this rank's share of the parts that are missing."""
    count = -(-source.count // PART)
    mine = [number for number in ranks.share(count) if not _part(parts, number).exists()]
    size = batch if source.images is not None else 4 * batch
    jobs = [
        (number, range(start, min(start + size, (number + 1) * PART, source.count)))
        for number in mine
        for start in range(number * PART, min((number + 1) * PART, source.count), size)
    ]
    bar = tqdm(total=len(jobs) * size, unit=f" {about.kind}", disable=None if ranks.is_main else True)
    with bar, ThreadPoolExecutor(_DECODERS) as pool:
        read = _read_ahead(model, source, [rows for _, rows in jobs], pool)
        rows, embeddings, left_out = list[int](), list[Tensor](), dict[str, str]()
        for place, ((number, part), batch_) in enumerate(zip(jobs, read, strict=True)):
            rows += batch_.rows
            left_out |= batch_.left_out
            if batch_.rows:
                embeddings.append(batch_.embed(model))
            bar.update(len(part))
            if place + 1 == len(jobs) or jobs[place + 1][0] != number:
                found = torch.cat(embeddings).numpy() if embeddings else np.empty((0, about.width))
                made = table([source.key(row) for row in rows], rows, found.astype(about.dtype))
                with replacing(_part(parts, number)) as file:
                    noted = {_LEFT_OUT: json.dumps(left_out)}
                    pq.write_table(made.replace_schema_metadata(noted), file, compression="none", use_dictionary=False)
                rows, embeddings, left_out = [], [], {}


class _Batch(NamedTuple):
    rows: list[int]
    """Of the source, those that can be used."""
    embed: Callable[[Model], Tensor]
    left_out: dict[str, str]


def _read_ahead(model: Model, source: Source, batches: Sequence[range], pool: ThreadPoolExecutor) -> Iterator[_Batch]:
    """The batches in order; the images of the next are decoded while the caller computes."""

    def seen(row: int) -> Tensor | str:
        assert source.images is not None
        try:
            return as_seen(source.images.image(source.key(row), row), model.config)
        except BadRecordError as error:
            return error.reason
        except OSError as error:
            return error.strerror or "cannot be read"

    def texts(rows: range) -> _Batch:
        found = [source.key(row) for row in rows]
        return _Batch(list(rows), lambda model: model.embedder.embed_texts(found), {})

    def images(rows: range, futures: list[Future[Tensor | str]]) -> _Batch:
        found = {row: future.result() for row, future in zip(rows, futures, strict=True)}
        pixels = {row: image for row, image in found.items() if isinstance(image, Tensor)}
        bad = {source.key(row): reason for row, reason in found.items() if isinstance(reason, str)}
        return _Batch(list(pixels), lambda model: model.embedder.embed_images(torch.stack([*pixels.values()])), bad)

    def submitted(number: int) -> list[Future[Tensor | str]]:
        return [pool.submit(seen, row) for row in (batches[number] if number < len(batches) else ())]

    if source.images is None:
        yield from map(texts, batches)
        return
    following = submitted(0)
    for number, rows in enumerate(batches):
        now, following = following, submitted(number + 1)
        yield images(rows, now)


def _join(parts: Path, source: Source, out: Path, about: About) -> Embedded:
    """Write all parts as one file."""
    count, left_out, lost = 0, dict[str, str](), 0
    files = [_part(parts, number) for number in range(-(-source.count // PART))]
    for path in files:
        metadata = pq.read_metadata(path)
        bad = json.loads((metadata.metadata or {})[_LEFT_OUT])
        count, lost = count + metadata.num_rows, lost + len(bad)
        left_out |= dict(list(bad.items())[: max(0, 10 - len(left_out))])
    if not count:
        raise DataError(f"none of the images can be used: {listed(left_out, lost)}; give others")

    def joined() -> Iterator[pa.Table]:
        for start in range(0, len(files), _PARTS_AT_ONCE):
            whole = pa.concat_tables([pq.read_table(path) for path in files[start : start + _PARTS_AT_ONCE]])
            yield whole.replace_schema_metadata(None).combine_chunks()

    write(out, replace(about, left_out=lost), joined(), count)
    return Embedded(count, left_out)
