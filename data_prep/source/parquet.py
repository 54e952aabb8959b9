"""Rows of Parquet files, in memory that the size of the file bounds: a few bytes of one can stand for gigabytes of text."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bridgetower_train.foreign import open_regular

_ROWS = 1024  # at a time
_ROW_BYTES = 100  # that a row takes besides its text
_ROOM, _EXPANSION = 64 << 20, 100


def read_parquet(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, with values of some columns, which are text, numbers or lists of these.

    If one of the columns is missing the first row has the names of all, for a message. ValueError where the file is broken, or
    its text takes more than 100 times the file's size and 64 MiB.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_regular(path) as file:
            room = _ROOM + _EXPANSION * os.fstat(file.fileno()).st_size
            metadata = pq.read_metadata(file)
            names = metadata.schema.to_arrow_schema().names
            if not set(columns) <= set(names):
                yield dict.fromkeys(names)
            leaves = [metadata.schema.column(i) for i in range(metadata.num_columns)]
            for group in range(metadata.num_row_groups):
                _check_room(room - metadata.row_group(group).total_byte_size)
            wanted = [leaf for leaf in leaves if any(f"{leaf.path}.".startswith(f"{name}.") for name in columns)]
            # a text that many rows share stays one text until all have been counted
            shared = [leaf.path for leaf in wanted if leaf.physical_type == "BYTE_ARRAY"]
            table = pq.ParquetFile(file, metadata=metadata, read_dictionary=shared)
            for batch in table.iter_batches(_ROWS, columns=list(columns)):
                room -= _ROW_BYTES * len(batch) + sum(map(_text_bytes, batch.columns))
                _check_room(room)
                names, values = batch.schema.names, [_decoded(column).to_pylist() for column in batch.columns]
                yield from (dict(zip(names, row, strict=True)) for row in zip(*values, strict=True))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(error) from None


def _check_room(room: int) -> None:
    if room < 0:
        raise ValueError(f"its text takes more than {_EXPANSION} times the size of the file")


def _decoded(column: Any) -> Any:
    import pyarrow as pa

    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column  # six times as fast to convert


def _text_bytes(column: Any) -> int:
    """Bytes of a column's values, each counted in every row that has it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = column.flatten()
    if pa.types.is_nested(column.type):
        raise ValueError(f"a column of {column.type}, not of text")
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    return pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0
