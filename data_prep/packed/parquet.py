"""Parquet files whose rows contain the images themselves, as Hugging Face's `datasets` writes them."""

import os
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bridgetower_train.data.shards import IMAGE_TOO_LARGE, MAX_IMAGE_BYTES
from bridgetower_train.foreign import open_regular
from data_prep.source.rows import NO_IMAGE

_ROWS = 16  # at a time; an image may have 64 MiB
_ROOM, _EXPANSION = 64 << 20, 100


class Embedded(NamedTuple):
    """A row."""

    image: bytes
    """Empty where `state` says why there is none."""
    sha256: str
    file: str
    """The name that the row gives its image; empty where it gives none."""
    values: dict[str, Any]
    """Of the other columns."""
    state: str = ""


def columns_of(file: BinaryIO) -> dict[str, bool]:
    """Column -> whether it contains images, of an open Parquet file. ValueError where it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    return {field.name: _has_images(field.type) for field in schema}


def read_images(path: Path, image: str, columns: Sequence[str]) -> Iterator[Embedded]:
    """The rows of a Parquet file with images in column `image`.

    ValueError where the file is broken, or where its different images would take more than 100 times its size and 64 MiB.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    known: set[str] = set()
    try:
        with open_regular(path) as file:
            room = _ROOM + _EXPANSION * os.fstat(file.fileno()).st_size
            table = pq.ParquetFile(file)
            for group in range(table.num_row_groups):
                _check_room(room - table.metadata.row_group(group).total_byte_size)
            for batch in table.iter_batches(_ROWS, columns=[image, *columns]):
                for values in batch.to_pylist():
                    row = _row(values, image)
                    room -= 0 if row.sha256 in known else len(row.image)
                    _check_room(room)
                    known.add(row.sha256)
                    yield row
    except (pa.ArrowException, OSError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def _row(values: dict[str, Any], column: str) -> Embedded:
    found = values.pop(column)
    name = found.get("path") if isinstance(found, dict) else None
    data = (found.get("bytes") if isinstance(found, dict) else found) or b""
    state = "" if 0 < len(data) <= MAX_IMAGE_BYTES else IMAGE_TOO_LARGE if data else NO_IMAGE
    digest = "" if state else sha256(data).hexdigest()
    return Embedded(b"" if state else data, digest, name if isinstance(name, str) else "", values, state)


def _check_room(room: int) -> None:
    if room < 0:
        raise ValueError(f"it takes more than {_EXPANSION} times its size")


def _has_images(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _has_images(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
