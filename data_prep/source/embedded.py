"""Parquet files whose rows contain the images themselves, as Hugging Face's `datasets` writes them."""

import os
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bridgetower_train.data.shards import IMAGE_TOO_LARGE, MAX_IMAGE_BYTES
from bridgetower_train.foreign import open_regular

_ROWS = 16  # at a time; an image may have 64 MiB
_ROOM, _EXPANSION = 64 << 20, 100


class Embedded(NamedTuple):
    """An image of a row, copied to a file."""

    offset: int
    size: int
    sha256: str
    file: str
    """The name that the row gives it; empty where it gives none."""
    values: dict[str, Any]
    """Of the other columns."""
    state: str = ""
    """Why there is no image."""


def columns_of(path: Path) -> dict[str, bool]:
    """Column -> whether it contains images, of a Parquet file. ValueError where it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_regular(path) as file:
            schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    return {field.name: _has_images(field.type) for field in schema}


def copy_images(path: Path, image: str, columns: Sequence[str], target: BinaryIO, no_image: str) -> Iterator[Embedded]:
    """Copy the images in column `image` of a Parquet file to `target`, one after the other; equal ones once.

    `no_image`: the state of a row without one. ValueError where the file is broken, or would take more than 100 times its size
    and 64 MiB.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    places: dict[str, tuple[int, int]] = {}
    try:
        with open_regular(path) as file:
            room = _ROOM + _EXPANSION * os.fstat(file.fileno()).st_size
            table = pq.ParquetFile(file)
            groups = (table.metadata.row_group(number) for number in range(table.num_row_groups))
            if any(group.total_byte_size > room for group in groups):
                raise ValueError(f"it takes more than {_EXPANSION} times its size")
            for batch in table.iter_batches(_ROWS, columns=[image, *columns]):
                for row in batch.to_pylist():
                    found = row.pop(image)
                    name = found.get("path") if isinstance(found, dict) else None
                    data = found.get("bytes") if isinstance(found, dict) else found
                    name = name if isinstance(name, str) else ""
                    if not data or len(data) > MAX_IMAGE_BYTES:
                        yield Embedded(0, 0, "", name, row, IMAGE_TOO_LARGE if data else no_image)
                        continue
                    digest = sha256(data).hexdigest()
                    if digest not in places:
                        room -= len(data)
                        if room < 0:
                            raise ValueError(f"it takes more than {_EXPANSION} times its size")
                        places[digest] = target.tell(), len(data)
                        target.write(data)
                    yield Embedded(*places[digest], digest, name, row)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def _has_images(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _has_images(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
