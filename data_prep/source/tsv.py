"""Large tables of URLs: two columns without a header, tens of millions of rows, which stay on disk."""

import hashlib
import os
import re
from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from bridgetower_train.errors import ConfigError, DataError
from bridgetower_train.foreign import encoding_of, open_regular
from data_prep.source.repeats import Hashes, Repeats, hash_urls
from data_prep.source.rows import Row, Table

DUPLICATE = "duplicate"
NOT_TWO_COLUMNS = "not two columns"
NOT_UTF8 = "not UTF-8"

_BLOCK = 16 << 20
_LINE = 64 << 20  # bytes, more than any row has
_HASH_ROW = 1 << 14  # bytes, more than any row of the published hashes has
_JUDGED = 1 << 16  # bytes that decide which column holds the URLs


class Scan(NamedTuple):
    """What one pass over a file finds."""

    starts: npt.NDArray[np.int64]
    """Byte offset of each row, and of the end of the last one."""
    urls: Hashes
    """Of each row; rows without two columns have that of the empty URL."""
    sha256: str


def scan(key: str, path: str, column: int, columns: int = 2) -> Scan:
    """Read a file of tab-separated rows once; `column`: the one of its `columns` that holds the URL.

    Quotes are ordinary characters; a row ends with a line feed, whatever else is in it. ConfigError naming `key` where the
    file cannot be read.
    """
    digest = hashlib.sha256()
    lengths, hashes = array("I"), [np.zeros(0, np.uint64)]
    with _open(key, path) as file:
        for block, lines in _lines(key, path, file):
            digest.update(block)
            lengths.extend([len(line) + 1 for line in lines])
            hashes.append(hash_urls(_url(line, column, columns) for line in lines))
        size = file.tell()
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.frombuffer(lengths, np.uint32), out=starts[1:])
    starts[-1] = min(starts[-1], size)  # the last row may end without a line feed
    return Scan(starts, np.concatenate(hashes), digest.hexdigest())


def url_column(key: str, path: str) -> int:
    """The column, 0 or 1, that holds URLs; DataError where neither does, or both do."""
    votes = [0, 0]
    with _open(key, path) as file:
        head = file.read(_JUDGED)
        if not encoding_of(head[:4]).startswith("utf-8"):
            raise DataError(f"{key}={path}: is in UTF-16 or UTF-32; convert it to UTF-8, or take the published table")
        for line in head.split(b"\n"):
            columns = _columns(line)
            if len(columns) == 2:
                for i, text in enumerate(columns):
                    votes[i] += text.lower().startswith((b"http://", b"https://"))
    if votes[0] == votes[1]:
        raise DataError(
            f"{key}={path}: its first rows are not a caption and a URL separated by one tab; take the published table"
        )
    return int(votes[1] > votes[0])


class Digests:
    """The published hashes of images (URL, SHA-256, MD5, separated by tabs), by row of a table; 8 bytes for each row."""

    def __init__(self, key: str, path: str, urls: Hashes) -> None:
        """`urls`: the hash of the URL of each row of the table. ConfigError or DataError where the file cannot be used."""
        self._path = path
        found = scan(key, path, 0, columns=3)
        self.sha256 = found.sha256
        order = np.argsort(found.urls)
        at = np.searchsorted(found.urls, urls, sorter=order)
        at = order[np.minimum(at, len(order) - 1)] if len(order) else np.zeros(len(urls), np.int64)
        known = found.urls[at] == urls if len(order) else np.zeros(len(urls), bool)
        if not known.any():
            raise DataError(
                f"{key}={path}: has no URL of the table; give a file of rows of URL, SHA-256 and MD5, separated by tabs"
            )
        self._starts = np.where(known, found.starts[at], -1)

    def of_rows(self, start: int, stop: int) -> list[str]:
        """For each row `sha256:...`, or an empty string."""
        with open(self._path, "rb", buffering=0) as file:
            return [
                _sha256(os.pread(file.fileno(), _HASH_ROW, at)) if at >= 0 else "" for at in self._starts[start:stop]
            ]


class TsvTable(Table):
    """Images of a file of captions and URLs: the first row of each URL has all its captions, the others are duplicates."""

    def __init__(
        self,
        path: str,
        column: int,
        caption: Callable[[str], str] = str,
        hashes: str | None = None,
        exclude: Sequence[str] = (),
        rules: dict[str, str] | None = None,
    ) -> None:
        """Reads each file once, in about 3 s a gigabyte.

        path: key `annotations`, URLs in `column` and captions in the other. caption: applied to each caption.
        hashes: the key of that name, the published hashes. exclude: the key of that name, tables whose URLs are left out.
        rules: more for `identity`.
        """
        self._path = path
        self._column = column
        self._caption = caption
        found = scan("annotations", path, column)
        self._starts = found.starts
        self._identity = {"annotations": found.sha256, **(rules or {})}
        others = [scan("exclude", other, url_column("exclude", other)) for other in exclude]
        if others:
            self._identity["exclude"] = " ".join(sorted(other.sha256 for other in others))
        self._repeats = Repeats(found.urls, np.concatenate([other.urls for other in others]) if others else None)
        self._digests = Digests("hashes", hashes, found.urls) if hashes else None
        if self._digests:
            self._identity["hashes"] = self._digests.sha256

    def __len__(self) -> int:
        return len(self._starts) - 1

    def identity(self) -> dict[str, str]:
        return self._identity

    def rows(self, start: int, stop: int) -> list[Row]:
        """Rows `start` to `stop`; nothing else of the file is read but rows that repeat their URLs."""
        stop = min(stop, len(self))
        digests = self._digests.of_rows(start, stop) if self._digests else [""] * (stop - start)
        with open(self._path, "rb") as file:
            file.seek(self._starts[start])
            lines = [file.read(self._starts[n + 1] - self._starts[n]) for n in range(start, stop)]
            return [self._row(file, *row) for row in zip(range(start, stop), lines, digests, strict=True)]

    def _row(self, file: BinaryIO, number: int, line: bytes, digest: str) -> Row:
        key = f"{number:09d}"
        parts = self._parse(line)
        if isinstance(parts, str):
            return Row(key, "", [], state=parts)
        url, caption = parts
        if self._repeats.left_out(number):
            return Row(key, url, [caption], state=DUPLICATE)
        captions = [caption]
        for later in self._repeats.later(number):
            file.seek(self._starts[later])
            parts = self._parse(file.read(self._starts[later + 1] - self._starts[later]))
            if not isinstance(parts, str):
                captions.append(parts[1])
        return Row(key, url, captions, {"url": url}, digest)

    def _parse(self, line: bytes) -> tuple[str, str] | str:
        """URL and caption, or the state of a row that has none."""
        columns = _columns(line)
        if len(columns) != 2:
            return NOT_TWO_COLUMNS
        try:
            url, caption = columns[self._column].decode().strip(), columns[1 - self._column].decode()
        except UnicodeDecodeError:
            return NOT_UTF8
        return url, self._caption(caption)


def _open(key: str, path: str) -> BinaryIO:
    try:
        return open_regular(path)
    except OSError as error:
        raise ConfigError(f"{key}={path}: cannot be read ({error.strerror})") from None


def _lines(key: str, path: str, file: BinaryIO) -> Iterator[tuple[bytes, list[bytes]]]:
    """Blocks of a file, each with the lines that end in it."""
    begun = b""
    while block := file.read(_BLOCK):
        *lines, begun = (begun + block).split(b"\n")
        if len(begun) > _LINE:
            raise DataError(f"{key}={path}: has a line of over {_LINE >> 20} MiB; take the published table")
        yield block, lines
    if begun:
        yield b"", [begun]


def _columns(line: bytes) -> list[bytes]:
    """A table may have been put together of files that begin with a byte order mark."""
    return line.removeprefix(BOM_UTF8).rstrip(b"\r\n").split(b"\t")


def _url(line: bytes, column: int, columns: int) -> bytes:
    parts = _columns(line)
    return parts[column].strip() if len(parts) == columns else b""


def _sha256(line: bytes) -> str:
    found = re.match(rb"[^\t\n]+\t([0-9a-fA-F]{64})\t", line)
    return f"sha256:{found[1].decode().lower()}" if found else ""
