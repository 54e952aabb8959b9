"""`log/NNNNNN.parquet`: the state of each row of a shard's range, and where its record is in the shard."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bridgetower_train.data.manifest import ShardInfo
from bridgetower_train.data.shards import INDEX_DTYPE
from bridgetower_train.errors import DataError, FileError
from bridgetower_train.files import recreate
from bridgetower_train.foreign import parse_json
from data_prep.shards.output import Output
from data_prep.shards.writer import Rows
from data_prep.source.repeats import Hashes, hash_urls
from data_prep.source.rows import FORMER_STATES, OK

T = TypeVar("T")

_INDEX_COLUMNS = [name for name in INDEX_DTYPE.names or () if name != "shard"]


class Line(NamedTuple):
    """One row of the log, which is one of the source."""

    row: int
    """Its number in the source."""
    key: str
    location: str
    state: str
    detail: str
    sha256: str | None
    """Of the original image, as width and height; None where it is unknown."""
    width: int | None
    height: int | None


_TYPES = {"row": pa.int64(), "width": pa.int32(), "height": pa.int32()}
_COLUMNS = [(name, _TYPES.get(name, pa.string())) for name in Line._fields]
SCHEMA = pa.schema(_COLUMNS + [(name, pa.from_numpy_dtype(INDEX_DTYPE[name])) for name in _INDEX_COLUMNS])
"""The fields of `Line`, and the record's row of the index, null where the row has no image."""


class RangeSummary(NamedTuple):
    """The result of a range of rows."""

    shard: ShardInfo | None
    """None where it has no image."""
    states: dict[str, int]
    """State -> rows."""
    edges: dict[int, int] = {}  # noqa: RUF012
    """Shorter edge of its images, pixels -> images; empty in logs of earlier versions."""
    before: dict[str, int] = {}  # noqa: RUF012
    """State -> rows, in an earlier log of these rows, which are tried again."""


class Logged(NamedTuple):
    """What the log of a range says about its images."""

    summary: RangeSummary
    rows: Rows
    """Of the index; their `shard` is 0."""
    urls: Hashes
    """Of the locations that are URLs."""
    images: Hashes
    """Of the SHA-256 of the originals that are known."""


def log_name(number: int) -> str:
    """Path of the log of a range in the folder of the corpus."""
    return f"log/{number:06d}.parquet"


def read_from(output: Output, number: int, read: Callable[[BinaryIO], T], remove: str) -> T:
    """What `read` finds in the log of a range. DataError where it cannot, which tells what to `remove`."""
    name = log_name(number)
    try:
        with output.open(name) as file:
            return read(file)
    except (pa.ArrowException, FileError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{output}/{name}: cannot be read ({reason}); remove {remove} and run the same command to write it again"
        ) from None


def write_log(path: Path, lines: Sequence[Line], index: Rows, summary: RangeSummary) -> None:
    """Write the log of a range, the same bytes for the same input; `index` has a row per line whose state is OK."""
    ok = np.array([line.state == OK for line in lines], bool)
    full = np.zeros(len(lines), INDEX_DTYPE)
    full[ok] = index
    known = map(_valid, zip(*lines, strict=True))
    columns = [pa.array(values, kind) for values, (_, kind) in zip(known, _COLUMNS, strict=True)]
    columns += [pa.array(full[name], mask=~ok) for name in _INDEX_COLUMNS]
    shard = None if summary.shard is None else summary.shard.noted()
    noted = {"shard": shard, "states": summary.states, "edges": summary.edges}
    noted |= {"before": summary.before} if summary.before else {}
    metadata = {key: json.dumps(value) for key, value in noted.items()}
    with recreate(path) as file:
        pq.write_table(pa.table(columns, SCHEMA.with_metadata(metadata)), file, compression="zstd")


def read_summary(file: BinaryIO) -> RangeSummary:
    """The result of a range, from the footer of its log. FileError, pa.ArrowException or OSError where it is none."""
    return _summary(pq.read_metadata(file).metadata)


def read_log(file: BinaryIO) -> Logged:
    """A whole log. Errors as of `read_summary`."""
    table = pq.read_table(file, columns=[*_INDEX_COLUMNS, "location", "sha256"])
    if table.schema.types[: len(_INDEX_COLUMNS)] != [SCHEMA.field(name).type for name in _INDEX_COLUMNS]:
        raise FileError("has other columns than a log")
    table = table.filter(table["crc"].is_valid())
    rows = np.zeros(len(table), INDEX_DTYPE)
    for name in _INDEX_COLUMNS:
        rows[name] = table[name].to_numpy()
    urls = hash_urls(text.encode() for text in table["location"].to_pylist() if text and "://" in text)
    images = hash_urls(text.encode() for text in table["sha256"].to_pylist() if text)
    return Logged(_summary(table.schema.metadata), rows, urls, images)


def read_states(file: BinaryIO) -> dict[int, str]:
    """Row -> state. Errors as of `read_summary`."""
    table = pq.read_table(file, columns=["row", "state"])
    if table.schema.types != [SCHEMA.field(name).type for name in ("row", "state")]:
        raise FileError("has other columns than a log")
    states = (FORMER_STATES.get(state, state) for state in table["state"].to_pylist())
    return dict(zip(table["row"].to_pylist(), states, strict=True))


def _summary(metadata: dict[bytes, bytes] | None) -> RangeSummary:
    noted = metadata or {}
    shard = parse_json(noted.get(b"shard", b""), ShardInfo | None, "shard")  # type: ignore[arg-type, var-annotated]
    counts = (parse_json(noted.get(name, b"{}"), dict[str, int], "states") for name in (b"states", b"before"))
    states, before = ({FORMER_STATES.get(state, state): rows for state, rows in of.items()} for of in counts)
    edges = parse_json(noted.get(b"edges", b"{}"), dict[str, int], "edges")
    return RangeSummary(shard, states, {int(edge): images for edge, images in edges.items()}, before)


def _valid(values: tuple[object, ...]) -> list[object]:
    """Parquet takes no lone surrogates, which JSON can carry."""
    return [v.encode("utf-8", "replace").decode() if isinstance(v, str) and not v.isascii() else v for v in values]
