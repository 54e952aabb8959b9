"""Annotation files: read, or refused with one message that names key and file."""

import csv
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from bridgetower_train.errors import ConfigError, DataError, UserError
from bridgetower_train.files import sha256_file

_CHUNK = 4 << 20  # characters
_MAX_ELEMENT = 16 * _CHUNK
_BLANKS = re.compile(r"[ \t\n\r]*")


def read_json(key: str, path: str) -> Any:
    """The contents of a JSON file. ConfigError where it cannot be read, DataError where it is no JSON in UTF-8."""
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"{key}={path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{key}={path}: is no JSON in UTF-8 ({error})") from None


def digest_file(key: str, path: str) -> str:
    """SHA-256 of a file. ConfigError where it cannot be read."""
    try:
        return sha256_file(path)
    except OSError as error:
        raise ConfigError(f"{key}={path}: cannot be read ({error.strerror})") from None


@contextmanager
def expecting(key: str, path: str, layout: str) -> Iterator[None]:
    """DataError that says what `layout` the file should have, where the block stumbles over it."""
    try:
        yield
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, csv.Error) as error:
        raise DataError(f"{key}={path}: {layout}; stumbled over {error!r}") from None


def read_array(key: str, path: str) -> Iterator[Any]:
    """The elements of a JSON file that is one array, one after the other: the memory of one, however long the array is.

    Errors as of `read_json`.
    """
    try:
        with open(path, encoding="utf-8") as file:
            yield from _elements(file)
    except OSError as error:
        raise ConfigError(f"{key}={path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{key}={path}: is no JSON array in UTF-8 ({error})") from None


def _elements(file: TextIO) -> Iterator[Any]:
    decode = json.JSONDecoder().raw_decode
    text = file.read(_CHUNK)
    at = _after_blanks(text, 0)
    if text[at : at + 1] != "[":
        raise ValueError("it does not start with [")
    start = at = at + 1
    while True:
        try:
            at = _after_blanks(text, at)
            if text[at] == "]" and start:
                return
            element, end = decode(text, at)
            end = _after_blanks(text, end)
            mark = text[end]
        except (ValueError, IndexError):  # broken, or cut off by the end of the chunk
            chunk = file.read(_CHUNK)
            if not chunk or len(text) - at > _MAX_ELEMENT:
                raise ValueError(f"broken element, or cut short: {text[at : at + 60]!r}") from None
            text, at = text[at:] + chunk, 0
            continue
        yield element
        if mark == "]":
            return
        if mark != ",":
            raise ValueError(f"no comma before {text[end : end + 60]!r}")
        start, at = 0, end + 1


def _after_blanks(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    assert match is not None
    return match.end()
