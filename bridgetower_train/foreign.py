"""Files that others may have written: only regular ones, from inside their folder, within a limit, of the expected shape."""

import os
import stat
from functools import cache
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from bridgetower_train.errors import FileError

MAX_JSON = 64 << 20
"""Bytes of a JSON file, unless its reader says otherwise."""

T = TypeVar("T")


def open_regular(path: str | Path) -> BinaryIO:
    """A file opened for reading. FileError if it is a FIFO, a device or a folder: those block, or never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO without a writer would block
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileError(f"{path}: is not a regular file; remove or replace it")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: str | Path, limit: int) -> bytes:
    """The contents of a regular file; FileError if it has more than `limit` bytes. OSError if it cannot be read."""
    with open_regular(path) as file:
        return read_rest(file, limit, str(path))


def read_rest(file: BinaryIO, limit: int, named: str) -> bytes:
    """What is left of an open file. FileError, beginning with `named`, if it has more than `limit` bytes."""
    data = bytearray()
    while chunk := file.read(limit + 1 - len(data)):
        data += chunk
        if len(data) > limit:
            raise FileError(f"{named}: has more than {limit:,} bytes, the limit for such a file")
    return bytes(data)


def read_json(path: str | Path, shape: type[T], limit: int = MAX_JSON) -> T:
    """The contents of a JSON file as `shape`, see `parse_json`. FileError names the file; OSError if it cannot be read."""
    return parse_json(read_bytes(path, limit), shape, str(path))


def parse_json(data: str | bytes, shape: type[T], named: str, todo: str = "restore the file") -> T:
    """JSON as `shape`: a dataclass, or types such as `dict[str, list[int]]`; nothing is converted, further keys are ignored.

    FileError, beginning with `named` and ending with `todo`, for whatever is not that: nesting too deep and numbers too long
    included.
    """
    from pydantic import ValidationError

    try:
        return _adapter(shape).validate_json(data, strict=True)  # type: ignore[no-any-return, arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"][:8])
        raise FileError(f"{named}: {where}{': ' if where else ''}{first['msg']}; {todo}") from None


@cache
def _adapter(shape: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(shape)


def inside(folder: str | Path, name: str, follow_links: bool = False, key: str = "follow_links") -> Path:
    """The path of `name` below `folder`, which may be a link itself. FileError if it leads outside.

    `follow_links`: links on the way may lead anywhere. `key`: the configuration key of `follow_links`.
    """
    parts = os.path.normpath(name).split(os.sep)
    path = os.path.join(folder, *parts)
    if "\0" in name or os.path.isabs(name) or parts[0] == os.pardir:
        raise FileError(f"{folder}: {name!r} leads outside the folder; such names are not followed")
    steps = islice(accumulate((str(folder), *parts), os.path.join), 1, None)
    if not follow_links and any(map(os.path.islink, steps)):
        root = os.path.realpath(folder)
        if os.path.commonpath([root, os.path.realpath(path)]) != root:
            raise FileError(f"{path}: is a link that leads outside {folder}; to follow such links, set {key}=true")
    return Path(path)
