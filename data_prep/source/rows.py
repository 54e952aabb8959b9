"""The rows of a source, and what becomes of each."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

OK = "ok"
"""The state of a row whose image is in the corpus."""


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
    state: str = ""
    """Why the source itself gives no image ("duplicate", "no caption", ...); empty: the image is to be had."""


class Outcome(NamedTuple):
    """What became of a row."""

    state: str
    """OK, or in a few words why there is no image: "404", "timeout", "not an image", ..."""
    detail: str = ""
    """More about it, for the log."""
    jpeg: bytes = b""
    """The image as it goes into the shard (`prepare_jpeg`)."""
    meta: dict[str, Any] = {}  # noqa: RUF012
    """Joins the captions too: sha256, width and height of the original."""


class Table(Protocol):
    """All rows of a source in its order; any range of them is at hand without reading the others."""

    def __len__(self) -> int: ...

    def rows(self, start: int, stop: int) -> list[Row]:
        """Rows `start` to `stop`."""

    def identity(self) -> dict[str, str]:
        """What the rows depend on: file -> its digest, rule -> its value. A run goes on only where all are as they were."""


class Images(Protocol):
    """Where the images come from: a folder, or the web."""

    def outcomes(self, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Outcome]]:
        """What becomes of each numbered row, as it is known and so in any order; rows are taken as there is room for them."""
