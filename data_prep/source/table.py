"""Tables of the user: CSV, TSV, JSON lines and Parquet, row by row; what is wrong with one row costs that row."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from bridgetower_train.display import shortened
from bridgetower_train.errors import ConfigError, nearest
from bridgetower_train.foreign import encoding_of, open_regular
from data_prep.source.annotations import expecting
from data_prep.source.parquet import read_parquet

MORE_FIELDS = "more fields than the header"
NOT_JSON = "json cannot be read"

TableRow = dict[str, Any] | str
"""Column -> value, or the state of a row that cannot be read."""

_LINE = 64 << 20  # characters
_HEAD = 1 << 13  # bytes that decide by what lines end
_LONE_CR = re.compile("\r(?=[^\n])")


def read_table(path: Path, columns: Sequence[str]) -> Iterator[TableRow]:
    """The rows of a table whose suffix is in READERS; of other columns than the named ones only some kinds give values.

    If one of the columns is missing the first row has the names of all. ValueError or csv.Error where the file is broken, or none
    of its rows can be read.
    """
    readable, states = 0, set()
    for row in READERS[path.suffix.lower()](path, columns):
        if isinstance(row, str):
            states.add(row)
        else:
            readable += 1
        yield row
    if states and not readable:
        raise ValueError(f"no row but of the state {', '.join(sorted(states))!r}")


def named_table(source: str, columns: Mapping[str, str]) -> Iterator[TableRow]:
    """`read_table` of the file that the key `source` names; `columns`: key of the configuration -> column.

    ConfigError where it is no table, or has no such column; DataError where it is broken.
    """
    path = Path(source)
    if path.suffix.lower() not in READERS or not path.exists():
        kinds = f"a folder, or a {', '.join(READERS)}"
        raise ConfigError(f"source={path}: {f'must be {kinds}' if path.exists() else 'does not exist'}")
    wanted = dict.fromkeys(columns.values())
    with expecting("source", source, f"is not a {path.suffix} of rows with columns {', '.join(wanted)}"):
        for row in read_table(path, tuple(wanted)):
            for key, column in columns.items() if not isinstance(row, str) else ():
                if column not in row:
                    names = [str(name) for name in row]
                    shown = shortened(", ".join(names), 1000)
                    raise ConfigError(
                        f"{key}={column}: source={path} has no such column, but {shown}{nearest(column, names)}"
                    )
            yield row


def image_in(row: dict[str, Any], column: str, source: str) -> str:
    """The path or URL in the column `image` of a row; ConfigError where that is neither."""
    image = row[column]
    if not isinstance(image, str | int | float | None):
        raise ConfigError(
            f"image={column}: source={source} has {shortened(repr(image))} in this column; name one of paths or URLs"
        )
    return str(image or "")


def _csv(path: Path, columns: Sequence[str]) -> Iterator[TableRow]:
    csv.field_size_limit(_LINE)
    # a field without quotes may contain a carriage return, which the parser takes for an error
    lines = (_LONE_CR.sub(" ", line) for line in _lines(path))
    return _named(csv.reader(lines, strict=True))


def _tsv(path: Path, columns: Sequence[str]) -> Iterator[TableRow]:
    return _named(line.rstrip("\r\n").split("\t") for line in _lines(path) if line.strip("\r\n"))


def _named(rows: Iterator[list[str]]) -> Iterator[TableRow]:
    """The rows after the first, which names their fields. Too many have a separator in a field, so that none can be trusted."""
    filled = filter(None, rows)
    header = next(filled, [])
    missing = dict.fromkeys(header)
    for row in filled:
        yield MORE_FIELDS if len(row) > len(header) else missing | dict(zip(header, row, strict=False))


def _jsonl(path: Path, columns: Sequence[str]) -> Iterator[TableRow]:
    for line in filter(str.strip, _lines(path)):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        yield row if isinstance(row, dict) else NOT_JSON


READERS: dict[str, Callable[[Path, Sequence[str]], Iterator[TableRow]]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _jsonl,
    ".parquet": read_parquet,
}
"""Suffix of a table -> its reader."""


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text in any encoding, which end with a line feed; where there is none, with a carriage return.

    What is invalid becomes U+FFFD, NUL a space. ValueError for an endless line.
    """
    with open_regular(path) as file:
        head = file.peek(_HEAD)
        encoding = encoding_of(head[:4])
        beginning = head.decode(encoding, "replace")
        end = "\r" if "\r" in beginning and "\n" not in beginning else "\n"
        text = TextIOWrapper(file, encoding, "replace", newline=end)
        for number, line in enumerate(iter(partial(text.readline, _LINE), ""), 1):
            if len(line) == _LINE:
                raise ValueError(f"line {number} has over {_LINE:,} characters")
            yield line.replace("\0", " ")
