"""Images in local folders, and tables that fit into memory."""

import os
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from bridgetower_train.data.shards import IMAGE_TOO_LARGE, MAX_IMAGE_BYTES, BadRecordError
from data_prep.parallel import ordered_map
from data_prep.source.image import prepare
from data_prep.source.rows import OK, Images, Outcome, Row, Table

MISSING = "missing file"


class RowList(Table):
    """A table in memory."""

    def __init__(self, rows: Sequence[Row], identity: dict[str, str]) -> None:
        self._rows = rows
        self._identity = identity

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, start: int, stop: int) -> list[Row]:
        return list(self._rows[start:stop])

    def identity(self) -> dict[str, str]:
        return self._identity


class LocalImages(Images):
    """Images whose location is a path, absolute or relative to one of several folders; the first that has it counts."""

    def __init__(self, folders: Sequence[str | Path], size: int, workers: int) -> None:
        self._folders = [str(folder) for folder in folders]
        self._size = size
        self._workers = workers

    def has_any(self, rows: Iterator[Row]) -> bool:
        """Whether at least one of the rows' images exists."""
        return any(self._find(row) is not None for row in rows)

    def outcomes(self, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Outcome]]:
        return ordered_map(self._numbered, rows, self._workers)

    def prepare(self, row: Row) -> Outcome:
        """Read the image of a row and encode it for the shard."""
        path = self._find(row)
        try:
            if path is None:
                return Outcome(MISSING)
            if os.path.getsize(path) > MAX_IMAGE_BYTES:
                return Outcome(IMAGE_TOO_LARGE)
            original = Path(path).read_bytes()
            jpeg, width, height = prepare(original, self._size)
        except OSError as error:
            return Outcome("file cannot be read", error.strerror or "")
        except BadRecordError as error:
            return Outcome(error.reason)
        return Outcome(OK, "", jpeg, {"sha256": sha256(original).hexdigest(), "width": width, "height": height})

    def _numbered(self, numbered: tuple[int, Row]) -> tuple[int, Outcome]:
        number, row = numbered
        return number, self.prepare(row)

    def _find(self, row: Row) -> str | None:
        if "\0" in row.location:
            return None
        paths = (os.path.join(folder, row.location) for folder in self._folders)
        return next((path for path in paths if os.path.isfile(path)), None)
