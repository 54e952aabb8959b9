"""Files that others may have written: only regular ones, from inside their folder, within a limit, of the expected shape."""

import codecs
import os
import stat
from collections.abc import Iterator
from functools import cache
from io import BufferedReader
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from bridgetower_train.errors import FileError

MAX_JSON = 64 << 20
"""Bytes of a JSON file, unless its reader says otherwise."""

MAX_YAML = 1 << 17
"""Bytes of a YAML file, whose parser takes seconds for more."""

MAX_LINES = 1 << 30
"""Bytes of a file of lines; a long run writes some millions."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before that of UTF-16, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MAX_DEPTH = 32  # of YAML; a configuration has 3
_MAX_LINE = 1 << 20  # bytes

T = TypeVar("T")


def open_regular(path: str | Path) -> BufferedReader:
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


def encoding_of(head: bytes) -> str:
    """The encoding of a text that begins with `head`, 4 bytes; decoding with it removes a byte order mark.

    UTF-8 unless such a mark says otherwise, or a NUL beside each of the first two letters.
    """
    if head[:1].isascii() and 0 not in head:
        return "utf-8"
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    even, odd = head[0::2], head[1::2]
    if odd == b"\0\0" and all(even):
        return "utf-16-le"
    return "utf-16-be" if even == b"\0\0" and all(odd) else "utf-8"


def decode_text(data: bytes) -> str:
    """Text in its encoding (`encoding_of`), without a byte order mark; what is invalid becomes U+FFFD."""
    return data.decode(encoding_of(data[:4]), "replace")


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


def parse_yaml(data: bytes, named: str) -> dict[str, Any]:
    """YAML that consists of keys and their values.

    FileError, beginning with `named`, for whatever is not that: aliases (by which a few lines become an endless tree), deep
    nesting and integers of over 64 bits included.
    """
    import yaml

    try:
        content = yaml.load(data, _yaml_loader())
    except Exception as error:  # for a value that does not fit its tag PyYAML raises whatever its code runs into
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0] or type(error).__name__
        raise FileError(f"{named}: {f'line {mark.line + 1}: ' if mark else ''}{reason}; restore the file") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise FileError(f"{named}: does not consist of keys and values; restore the file")
    return content


@cache
def _yaml_loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            if isinstance(event, yaml.AliasEvent):
                fault = "has an alias, which is not followed"
            elif self.depth == _MAX_DEPTH:
                fault = f"is nested more than {_MAX_DEPTH} levels deep"
            else:
                self.depth += 1
                node = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
                self.depth -= 1
                return node
            raise yaml.MarkedYAMLError(problem=fault, problem_mark=event.start_mark)

        def integer(self, node: Any) -> int:
            value: int = self.construct_yaml_int(node)
            if value.bit_length() > 63:
                raise yaml.MarkedYAMLError(problem="has an integer of over 64 bits", problem_mark=node.start_mark)
            return value

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.integer)
    return Loader


def read_lines(path: str | Path) -> Iterator[bytes]:
    """The lines of a regular file, one after the other; one of over a megabyte comes in parts.

    FileError once it has given `MAX_LINES` bytes. OSError if it cannot be read.
    """
    with open_regular(path) as file:
        while line := file.readline(_MAX_LINE):
            if file.tell() > MAX_LINES:
                raise FileError(f"{path}: has more than {MAX_LINES:,} bytes, the limit for such a file")
            yield line


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
