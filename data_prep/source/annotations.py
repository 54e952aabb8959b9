"""Annotation files: read, or refused with one message that names key and file."""

import codecs
import csv
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import ijson

from bridgetower_train.display import shortened
from bridgetower_train.errors import ConfigError, DataError, FileError, UserError
from bridgetower_train.files import sha256_file
from bridgetower_train.foreign import encoding_of, open_regular

BROKEN = "broken annotation"
"""The state of a row for an annotation that is not as its layout says."""

_SHOWN = 200  # characters of a library's message
_HEAD = 1024  # bytes in which an array begins
_OPENED = b"[" * 1000  # the parser's memory grows with the square of the depth
_MISFIT = (LookupError, TypeError, AttributeError, ValueError)

T = TypeVar("T")
_ALIKE, _NO_BRACKETS = bytes.maketrans(b"{}", b"[]"), bytes(set(range(256)) - set(b"[]{}"))


def read_json(key: str, path: str) -> Any:
    """The contents of a JSON file. ConfigError where it cannot be read, DataError where it is not JSON in UTF-8."""
    try:
        with open_regular(path) as file:
            return json.loads(file.read())
    except FileError:
        raise
    except OSError as error:
        raise ConfigError(f"{key}={path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{key}={path}: is not JSON in UTF-8 ({error})") from None


def digest_file(key: str, path: str) -> str:
    """SHA-256 of a file. ConfigError where it cannot be read."""
    try:
        return sha256_file(path)
    except OSError as error:
        raise ConfigError(f"{key}={path}: cannot be read ({error.strerror})") from None


@contextmanager
def expecting(key: str, path: str, layout: str) -> Iterator[None]:
    """DataError naming the `layout` that the file should have, where the block cannot read it."""
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError, csv.Error) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:_SHOWN]}"
        raise DataError(f"{key}={path}: {layout}; reading it failed with {reason}") from None


def read_array(key: str, path: str, member: str = "") -> Iterator[Any]:
    """The elements of a JSON file that is one array, one after the other, so that only one is in memory.

    `member`: the file is an object instead, and the array is this member of it; the others are not kept. Errors as of
    `read_json`.
    """
    begin = "{" if member else "["
    try:
        with open_regular(path) as file:
            encoding = encoding_of(file.peek(4)[:4])
            if not file.read(_HEAD).decode(encoding, "ignore").lstrip().startswith(begin):
                raise ValueError(f"it does not start with {begin}")
            file.seek(0)
            text = file if encoding == "utf-8" else codecs.EncodedFile(file, "utf-8", encoding)
            yield from ijson.items(_Shallow(text), f"{member}.item" if member else "item", use_float=True)
    except FileError:
        raise
    except OSError as error:
        raise ConfigError(f"{key}={path}: cannot be read ({error.strerror})") from None
    except (ValueError, ijson.JSONError) as error:
        raise DataError(
            f"{key}={path}: is not a JSON {'object' if member else 'array'} in UTF-8 ({' '.join(str(error).split())})"
        ) from None


def usable(items: Iterable[Any], read: Callable[[Any], T]) -> Iterator[T | None]:
    """`read(item)` for each item; None for one that is not as it should be. If all are so, what `read` raised for the first."""
    first, good = None, False
    for item in items:
        try:
            found = read(item)
        except _MISFIT as error:
            first = first or error
            yield None
        else:
            good = True
            yield found
    if first is not None and not good:
        raise first


def number(value: Any) -> int:
    """An id: a number of 64 bits, perhaps written as a text. TypeError for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19:
        return int(value)
    if type(value) is not int or value.bit_length() > 63:
        raise TypeError(f"{shortened(repr(value))} is not an id")
    return value


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Shallow:
    """A file that refuses to be read on where its brackets open a thousand times without closing."""

    def __init__(self, file: _Readable) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        if _OPENED in data.translate(_ALIKE, _NO_BRACKETS):
            raise ValueError("nested too deep")
        return data
