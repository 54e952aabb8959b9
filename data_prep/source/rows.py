"""The rows of a source and their outcomes: what a table and a source of images have to provide."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

OK = "ok"
"""The state of a row whose image is in the corpus."""
FORMER_STATES = {
    "no picture": "no image",
    "not a picture": "not an image",
    "picture cannot be decoded": "image cannot be decoded",
    "picture over 64 MiB": "image over 64 MiB",
    "longer than a JPEG can be": "too narrow",
}
"""State as earlier versions named it, in logs and spools that a run may resume -> its name."""


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


class Table(Protocol):
    """All rows of a source in its order; a range of them can be read without the others."""

    def __len__(self) -> int: ...

    def rows(self, start: int, stop: int) -> list[Row]:
        """Rows `start` to `stop`."""

    def identity(self) -> dict[str, str]:
        """What the rows depend on: file -> its digest, rule -> its value. A run resumes only where all are unchanged."""


class Images(Protocol):
    """Where the images come from: a folder, or the web."""

    def outcomes(self, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Outcome]]:
        """The outcome of each numbered row as soon as it is known, so in any order; rows are taken as there is room."""
