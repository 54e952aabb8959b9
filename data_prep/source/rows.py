"""The rows of a source and their outcomes: what a table and a source of images have to provide."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bridgetower_train.errors import DataError

OK = "ok"
"""The state of a row whose image is in the corpus."""
NO_IMAGE = "no image"
"""The state of a row or a record that names none, or lacks the one that it names."""
WEB = ("http://", "https://")
"""How the URLs begin that a web server answers."""
FORMER_STATES = {
    "no picture": NO_IMAGE,
    "not a picture": "not an image",
    "picture cannot be decoded": "image cannot be decoded",
    "picture over 64 MiB": "image over 64 MiB",
    "longer than a JPEG can be": "too narrow",
}
"""State as earlier versions named it, in logs and spools that a run may resume -> its name."""


class Place(NamedTuple):
    """Where an encoded image is in a local file."""

    file: str
    offset: int
    size: int
    """Bytes."""


class Row(NamedTuple):
    """One image as its source describes it."""

    key: str
    """The record's key: 1 to 90 letters, digits, '_' and '-', unique in the corpus."""
    location: str
    """Path or URL of the image."""
    captions: list[str]
    """In the order of the source."""
    meta: dict[str, Any] = {}  # noqa: RUF012
    """Joins the captions in the record's json."""
    digest: str = ""
    """Published digest of the original image, such as `md5:0123...` or `sha256:4567...`; empty: none is known."""
    kinds: Sequence[str] = ()
    """The kind of each caption; empty where none has one."""
    state: str = ""
    """Why the source itself gives no image ("duplicate", "no caption", ...); empty: the image has to be fetched."""
    places: Sequence[Place] = ()
    """Where its images are, if the source has them in a file together with others."""
    further: Sequence[str] = ()
    """Locations of further images of the record."""


class Outcome(NamedTuple):
    """The image of a row, or why there is none."""

    state: str
    """OK, or in a few words why there is no image: "404", "timeout", "not an image", ..."""
    detail: str = ""
    """More about it, for the log."""
    jpeg: bytes = b""
    """The image as it goes into the shard (`prepare_jpeg`)."""
    meta: dict[str, Any] = {}  # noqa: RUF012
    """Joins the captions too: sha256, width and height of the original."""
    further: Sequence[bytes] = ()
    """Images that follow the first in the record."""


class Table(Protocol):
    """All rows of a source in its order; a range of them can be read without the others."""

    def __len__(self) -> int: ...

    def rows(self, start: int, stop: int) -> list[Row]:
        """Rows `start` to `stop`."""

    def identity(self) -> dict[str, str]:
        """What the rows depend on: file -> its digest, rule -> its value. A run resumes only where all are unchanged."""


class PartError(DataError):
    """The rows of a part cannot be read, perhaps only now; those of others can."""


class Part(Protocol):
    """Rows that become one shard. It may be pickled, and read on another machine."""

    number: int
    """Of the shard and its log."""
    before: Mapping[str, int]
    """State -> rows, in an earlier log of these rows, which are tried again; empty otherwise."""

    def rows(self, folder: Path) -> dict[int, Row]:
        """Read the rows, by their number in the source, or in the file that is the part; one at least. PartError.

        What has to be fetched for them is put into `folder`, a local one, which exists.
        """

    def close(self) -> None:
        """Remove what has been put there."""


class Parts(Protocol):
    """All rows of a source in its order, in parts; each can be read without the others."""

    total: int | None
    """Rows; None where only reading them tells."""
    ahead: int
    """Parts to read ahead of need, in threads."""

    def __len__(self) -> int: ...

    def part(self, number: int) -> Part:
        """Part `number`, from 0."""

    def identity(self) -> dict[str, str]:
        """As of `Table`."""


@dataclass
class RowsPart(Part):
    """Rows in memory."""

    number: int
    read: dict[int, Row]
    before: Mapping[str, int] = field(default_factory=dict)

    def rows(self, folder: Path) -> dict[int, Row]:
        return self.read

    def close(self) -> None:
        pass


class TableParts(Parts):
    """The rows of a table, `step` a part."""

    ahead = 0

    def __init__(self, table: Table, step: int) -> None:
        self.total: int | None = len(table)
        self.table = table
        self.step = step

    def __len__(self) -> int:
        return -(-len(self.table) // self.step)

    def part(self, number: int) -> Part:
        start = number * self.step
        rows = self.table.rows(start, min(len(self.table), start + self.step))
        return RowsPart(number, dict(enumerate(rows, start)))

    def identity(self) -> dict[str, str]:
        return self.table.identity()


class Images(Protocol):
    """Where the images come from: a folder, or the web."""

    def outcomes(self, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Outcome]]:
        """The outcome of each numbered row as soon as it is known, so in any order; rows are taken as there is room.

        The numbers are the caller's; no two rows in work have the same.
        """
