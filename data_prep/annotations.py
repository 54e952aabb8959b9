"""Annotation files in JSON: read, or refused with one message that names key and file."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bridgetower_train.errors import ConfigError, DataError


def read_json(key: str, path: str) -> Any:
    """The contents of a JSON file. ConfigError where it cannot be read, DataError where it is no JSON in UTF-8."""
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"{key}={path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{key}={path}: is no JSON in UTF-8 ({error})") from None


@contextmanager
def expecting(key: str, path: str, layout: str) -> Iterator[None]:
    """DataError that says what `layout` the file should have, where the block stumbles over it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{key}={path}: {layout}; stumbled over {error!r}") from None
