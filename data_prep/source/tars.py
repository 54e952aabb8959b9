"""Sets of tars as users of webdataset name them, each brought to a local file and taken apart into records."""

import atexit
import contextlib
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fsspec.core import url_to_fs

from bridgetower_train.data.cache import FetchError, fetch
from bridgetower_train.data.roots import is_remote
from bridgetower_train.data.shards import BadRecordError
from bridgetower_train.data.tar import Gap, Member, member_key, walk_tar
from bridgetower_train.display import without_secrets
from bridgetower_train.errors import ConfigError, FileError
from bridgetower_train.files import recreate
from bridgetower_train.foreign import open_regular
from data_prep.source.local import NOT_A_FILE, local_path
from data_prep.source.rows import PartError

IMAGES = ("jpg", "jpeg", "png", "webp")
"""Suffixes of image members; where a record has several, the first of these is taken."""
CAPTIONS = ("json", "txt")
"""Suffixes of the members with captions."""
DUPLICATE_MEMBER = "duplicate member"
SPARSE = "sparse in the tar"

_PIPE = "pipe:"
_WEB = ("http://", "https://")


class Loss(NamedTuple):
    """Something in a tar that belongs to no record."""

    where: str
    reason: str


@dataclass
class Contents:
    """What the headers of a tar say."""

    records: dict[str, dict[str, Member]] = field(default_factory=dict)
    """Key -> suffix -> member."""
    lost: list[Loss] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    """Suffix -> members that are neither images nor captions."""
    others: dict[str, str] = field(default_factory=dict)
    """Key -> the first of these members that has it."""


def contents_of(file: BinaryIO, captions: tuple[str, ...] = CAPTIONS) -> Contents:
    """Walk over a tar; `captions`: suffixes of the members to keep besides images."""
    contents = Contents()
    for found in walk_tar(file):
        if isinstance(found, Gap):
            contents.lost.append(Loss(f"bytes {found.offset}-{found.offset + found.size}", found.reason))
            continue
        key, suffix = member_key(found.name)
        if suffix not in IMAGES and suffix not in captions:
            contents.unread[suffix] += 1
            contents.others.setdefault(key, found.name)
            continue
        parts = contents.records.setdefault(key, {})
        if suffix in parts:
            contents.lost.append(Loss(found.name, DUPLICATE_MEMBER))
            if len(parts) == 1:  # the other member of the first one is lost: do not take that of the second
                parts.clear()
        parts.setdefault(suffix, found)
    return contents


def named_tars(source: str, allow_pipe: bool, follow_links: bool) -> list[str]:
    """The tars that `source`, the key of that name, stands for: paths, URLs and, with `pipe:` before them, commands.

    It is one of these, several between `::` or in brackets, with braces, or a folder of tars. ConfigError where there is none, a
    local one does not exist, or a command is not allowed.
    """
    from webdataset.shardlists import expand_urls  # imports torch

    brackets = source.startswith("[") and source.endswith("]")
    given = _separated(source[1:-1]) if brackets else [source]
    try:
        names = [name for text in given for name in expand_urls(text)]
    except ValueError as error:
        raise ConfigError(f"source={source}: its braces do not match ({error})") from None
    found = [tar for name in names for tar in _tars_of(name, allow_pipe, follow_links)]
    if not found:
        raise ConfigError(f"source={source}: has no .tar; name tars, or a folder of them")
    return found


def _separated(text: str) -> list[str]:
    """The elements of a list; commas in braces are not between elements."""
    parts, depth = [""], 0
    for letter in text:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in (part.strip().strip("'\"") for part in parts) if part]


def _tars_of(name: str, allow_pipe: bool, follow_links: bool) -> Iterator[str]:
    if name.startswith(_PIPE):
        if not allow_pipe:
            raise ConfigError(f"source={name}: runs a command; set allow_pipe=true if that is what you want")
        yield name
    elif not is_remote(name):
        yield from _local_tars(Path(name.removeprefix("file://")), follow_links)
    elif _short(name).endswith(".tar") or name.startswith(_WEB):
        yield name
    else:
        yield from _tars_in_url(name)


def _local_tars(path: Path, follow_links: bool) -> Iterator[str]:
    if path.is_dir():
        yield from map(str, sorted(entry for entry in path.glob("*.tar") if not entry.name.startswith(".")))
        return
    try:
        if not local_path(str(path.parent), path.name, follow_links).exists():
            raise ConfigError(f"source={path}: does not exist; name tars that do, or a folder of them")
    except BadRecordError as error:
        raise ConfigError(f"source={path}: {error.reason}") from None
    yield str(path)


def _tars_in_url(url: str) -> list[str]:
    try:
        fs, path = url_to_fs(url)
        names = [str(name) for name in fs.ls(path, detail=False)]
    except Exception as error:  # every protocol of fsspec has errors of its own
        raise ConfigError(f"source={url}: cannot be listed ({error!r}); check the URL and its credentials") from None
    return sorted(fs.unstrip_protocol(name) for name in names if name.endswith(".tar"))


def _short(name: str) -> str:
    return name.partition("?")[0].partition("#")[0]


def tar_name(name: str) -> str:
    """The last part of a path or URL, without its query; of a command its text, without secrets."""
    if name.startswith(_PIPE):
        return without_secrets(name)
    return _short(name).rstrip("/").rpartition("/")[2]


def local_size(name: str) -> int | None:
    """Bytes of a local tar; None for others."""
    return None if is_remote(name) or name.startswith(_PIPE) else os.stat(name).st_size


def bring(name: str, target: Path, follow_links: bool) -> Path:
    """The local path of a tar: its own, or `target`, to which it is fetched.

    PartError where it cannot be had, BadRecordError where a local one is no file or leads outside, FileNotFoundError.
    """
    if name.startswith(_PIPE):
        with recreate(target) as file:
            _pipe(name, file)
        return target
    if is_remote(name):
        with recreate(target) as file:
            try:
                fetch(name, file)
            except FetchError as error:
                raise PartError(str(error)) from error
        return target
    path = Path(name)
    return local_path(str(path.parent), path.name, follow_links)


def open_tar(path: Path) -> BinaryIO:
    """A local tar. BadRecordError where it is no regular file."""
    try:
        return open_regular(path)
    except FileError:
        raise BadRecordError(NOT_A_FILE) from None


def _pipe(name: str, file: BinaryIO) -> None:
    """Run a command of the user's with `file` as its output; it ends with this process."""
    command = subprocess.Popen(
        name.removeprefix(_PIPE), shell=True, stdin=subprocess.DEVNULL, stdout=file, start_new_session=True
    )

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)

    atexit.register(end)
    try:
        code = command.wait()
    finally:
        atexit.unregister(end)
    if code:
        raise PartError(f"{name}: ended with exit code {code}")
