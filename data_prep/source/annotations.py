"""Annotation files: read, or refused with one message that names key and file."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import ijson

from bridgetower_train.errors import ConfigError, DataError, FileError, UserError
from bridgetower_train.files import sha256_file
from bridgetower_train.foreign import open_regular

_SHOWN = 200  # characters of a library's message
_HEAD = 1024  # bytes in which an array begins
_OPENED = b"[" * 1000  # the parser's memory grows with the square of the depth
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


def read_array(key: str, path: str) -> Iterator[Any]:
    """The elements of a JSON file that is one array, one after the other, so that only one is in memory.

    Errors as of `read_json`.
    """
    try:
        with open_regular(path) as file:
            if not file.read(_HEAD).lstrip().startswith(b"["):
                raise ValueError("it does not start with [")
            file.seek(0)
            yield from ijson.items(_Shallow(file), "item", use_float=True)
    except FileError:
        raise
    except OSError as error:
        raise ConfigError(f"{key}={path}: cannot be read ({error.strerror})") from None
    except (ValueError, ijson.JSONError) as error:
        raise DataError(f"{key}={path}: is not a JSON array in UTF-8 ({' '.join(str(error).split())})") from None


class _Shallow:
    """A file that refuses to be read on where its brackets open a thousand times without closing."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        if _OPENED in data.translate(_ALIKE, _NO_BRACKETS):
            raise ValueError("nested too deep")
        return data
