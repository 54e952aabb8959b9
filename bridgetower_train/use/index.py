"""An index: embeddings with their keys, and what they are of; a Parquet file, or an array of numpy with one beside it.

It may be a stranger's: nothing in it is unpickled, it takes no more memory than its file, and of its images it names only those
below its own folder.

Shapes: N embeddings, E their width.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bridgetower_train.errors import ConfigError, FileError, UserError
from bridgetower_train.files import replacing
from bridgetower_train.foreign import open_regular, parse_json
from bridgetower_train.use.model import Model

Embeddings = npt.NDArray[np.float32] | npt.NDArray[np.float16]
DTYPES = ("float32", "float16")
SUFFIXES = (".parquet", ".npy")

_ABOUT = b"bridgetower_train"
_AT_ONCE = 8192  # rows
_MOST = 1 << 31  # rows
_WIDEST = 1 << 16
_BROKEN = (pa.ArrowException, OSError, ValueError, TypeError, KeyError)
"""What reading a broken Parquet file raises; an OSError of pyarrow's own has no number."""
_LENGTH_TOLERANCE = 0.01  # float16 of 512 numbers is off by at most 0.001


@dataclass(frozen=True)
class About:
    """What an index says of itself."""

    kind: str
    """`images` or `texts`."""
    model: str
    """Where the model was, for people."""
    step: int | None
    """Of the checkpoint; None for exported weights."""
    weights: str
    """Its `Model.fingerprint`."""
    source: str
    """`Source.digest`."""
    dtype: str
    width: int
    folder: str | None = None
    """Of the images, or of the corpora, from the index's own folder; None where it is not below that."""
    corpus: str | None = None
    left_out: int = 0
    """Images that could not be used."""
    format: int = 1

    @property
    def named(self) -> str:
        """The model, in words."""
        return self.model if self.step is None else f"{self.model}, step {self.step:,}"


@dataclass(frozen=True)
class Index:
    """An opened index."""

    path: Path
    about: About
    keys: Any
    """Array of pyarrow (N,), texts: of an image its path or key, of a text the text."""
    rows: npt.NDArray[np.int64]
    """(N,): the place of each in its source."""
    embeddings: Embeddings
    """(N, E), each of length 1; of a .npy mapped into memory."""

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, place: int) -> str:
        """The key of one."""
        return str(self.keys[place].as_py())

    def check(self, model: Model) -> None:
        """ConfigError where the embeddings are not of this model."""
        if self.about.weights != model.fingerprint:
            raise ConfigError(
                f"index={self.path}: is of another model ({self.about.named}); give that one, or embed again"
            )


def check_path(out: str) -> Path:
    """The path of an index; ConfigError where it has another suffix, or its folder is missing."""
    path = Path(out)
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"out={out}: must end in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ConfigError(f"out={out}: no such folder; create {path.parent}, or choose another")
    return path


def keys_file(path: Path) -> Path:
    """The Parquet file with the keys of an array."""
    return path.with_suffix(".keys.parquet")


def below(folder: str | None, path: Path) -> str | None:
    """A folder as seen from that of an index; None where it does not lie in it."""
    if folder is None:
        return None
    found = os.path.relpath(os.path.realpath(folder), os.path.realpath(path.parent))
    return None if found.split(os.sep)[0] == os.pardir else found


def table(keys: Sequence[str], rows: Sequence[int], embeddings: Embeddings) -> pa.Table:
    """Some rows of an index."""
    flat = pa.array(embeddings.reshape(-1))
    columns = {
        "key": pa.array([key.encode("utf-8", "replace").decode() for key in keys], pa.string()),
        "row": pa.array(rows, pa.int64()),
        "embedding": pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1]),
    }
    return pa.table(columns)


def write(path: Path, about: About, tables: Iterator[pa.Table], count: int) -> None:
    """Write an index as a whole: nobody sees a part of it. `count`: rows of all `tables`."""
    noted = {_ABOUT: json.dumps(asdict(about))}
    if path.suffix == ".parquet":
        with replacing(path) as file:
            _write_tables(file, tables, noted)
        return
    # The keys are there before the array is.
    with replacing(path) as array, replacing(keys_file(path)) as keys:
        shape = {
            "descr": np.dtype(about.dtype).newbyteorder("<").str,
            "fortran_order": False,
            "shape": (count, about.width),
        }
        np.lib.format.write_array_header_1_0(array, shape)

        def kept() -> Iterator[pa.Table]:
            for part in tables:
                array.write(_numbers(part["embedding"], about.width).data)
                yield part.drop_columns(["embedding"])

        _write_tables(keys, kept(), noted)


def _write_tables(file: Any, tables: Iterator[pa.Table], noted: dict[bytes, str]) -> None:
    first = next(tables)
    schema = first.schema.with_metadata(noted)
    with pq.ParquetWriter(file, schema, compression="none", use_dictionary=False) as writer:
        writer.write_table(first.replace_schema_metadata(noted))
        for part in tables:
            writer.write_table(part.replace_schema_metadata(noted))


def _numbers(column: Any, width: int) -> Embeddings:
    """(n, E) of a column of lists."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in chunks]
    return np.ascontiguousarray(np.concatenate(parts))


def open_index(path: str | Path) -> Index:
    """An index that `bridgetower embed` wrote. FileError where it is none, OSError where it cannot be read."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"index={path}: must end in {' or '.join(SUFFIXES)}, as `bridgetower embed` writes it")
    if not path.is_file():
        raise ConfigError(f"index={path}: no such file; write it with `bridgetower embed`")
    array = _mapped(path) if path.suffix == ".npy" else None
    described = path if array is None else keys_file(path)
    if not described.is_file():
        raise FileError(f"{path}: lacks its keys, {described.name}; embed again")
    try:
        about, keys, rows, read = _read(described, with_embeddings=array is None)
    except _BROKEN as error:
        if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno):
            raise
        raise FileError(f"{path}: is not an index ({' '.join(str(error).split())[:200]}); embed again") from None
    embeddings = read if array is None else array
    if embeddings.shape != (len(rows), about.width) or not len(rows) or embeddings.dtype != np.dtype(about.dtype):
        raise FileError(f"{path}: does not have what it says of itself; embed again")
    for start in range(0, len(rows), _AT_ONCE):
        part = embeddings[start : start + _AT_ONCE].astype(np.float32)
        if not (np.abs(np.einsum("ne,ne->n", part, part) - 1) < _LENGTH_TOLERANCE).all():
            raise FileError(f"{path}: has embeddings whose length is not 1; embed again")
    return Index(path, about, keys, rows, embeddings)


def read_about(path: Path) -> About | None:
    """What the index at `path` says of itself; None where there is none."""
    described = keys_file(path) if path.suffix == ".npy" else path
    if not (path.is_file() and described.is_file()):
        return None
    try:
        with open_regular(described) as file:
            return _about(pq.read_metadata(file), path)
    except _BROKEN:
        return None


def _about(metadata: Any, path: Path) -> About:
    noted = (metadata.metadata or {}).get(_ABOUT)
    if noted is None:
        raise FileError(f"{path}: does not say which model it is of; write it with `bridgetower embed`")
    about = parse_json(noted, About, str(path), "embed again")
    if about.format != 1 or about.kind not in ("images", "texts") or about.dtype not in DTYPES:
        raise FileError(f"{path}: is of another version of bridgetower-train; embed again")
    if not 0 < about.width <= _WIDEST:
        raise FileError(f"{path}: has embeddings of {about.width:,} numbers; embed again")
    return about


def _read(path: Path, with_embeddings: bool) -> tuple[About, Any, npt.NDArray[np.int64], Embeddings]:
    """(about, keys, rows, embeddings): all but these are small, and they are stored as they are in memory."""
    with open_regular(path) as file:
        metadata = pq.read_metadata(file)
        about, size = _about(metadata, path), os.fstat(file.fileno()).st_size
        count, dtype = metadata.num_rows, np.dtype(about.dtype)
        width = about.width if with_embeddings else 0
        if not 0 < count < _MOST or count * (width * dtype.itemsize + 8) > size:
            raise FileError(f"{path}: says that it has {count:,} rows, more than its {size:,} bytes hold; embed again")
        schema = metadata.schema.to_arrow_schema()
        kinds = {"key": pa.string(), "row": pa.int64()}
        if with_embeddings:
            kinds["embedding"] = pa.list_(pa.from_numpy_dtype(dtype), about.width)
        if {name: schema.field(name).type for name in kinds if name in schema.names} != kinds:
            raise FileError(f"{path}: does not have the columns {', '.join(kinds)}; embed again")
        embeddings, rows = np.empty((count, width), dtype), np.empty(count, np.int64)
        keys, start = list[Any](), 0
        # a key that many rows share stays one until all have been counted
        file_ = pq.ParquetFile(file, metadata=metadata, read_dictionary=["key"])
        for batch in file_.iter_batches(_AT_ONCE, columns=list(kinds)):
            if any(column.null_count for column in batch.columns):
                raise FileError(f"{path}: has empty cells; embed again")
            stop = start + len(batch)
            column = batch.column("key")
            size -= pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0
            if size < 0:
                raise FileError(f"{path}: has longer keys than its file can hold; embed again")
            keys.append(column.dictionary_decode())
            rows[start:stop] = batch.column("row").to_numpy()
            if with_embeddings:
                embeddings[start:stop] = _numbers(batch.column("embedding"), about.width)
            start = stop
        return about, pa.chunked_array(keys), rows, embeddings


def _mapped(path: Path) -> Embeddings:
    with open_regular(path):
        pass
    try:
        array: Embeddings = np.load(path, mmap_mode="c", allow_pickle=False)
        if isinstance(array, np.memmap) and array.ndim == 2:
            return array
        reason = "not an array of embeddings"
    except Exception as error:  # numpy raises whatever Python's parser does with a header that is none
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    raise FileError(f"{path}: cannot be read ({reason}); embed again")
