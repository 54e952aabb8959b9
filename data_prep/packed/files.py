"""Sources that consist of files: which ones their user names, and each brought to this machine."""

import atexit
import contextlib
import errno
import glob
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from fsspec.core import url_to_fs

from bridgetower_train.data.cache import FetchError, fetch
from bridgetower_train.data.roots import is_remote
from bridgetower_train.data.shards import BadRecordError
from bridgetower_train.display import without_secrets
from bridgetower_train.errors import ConfigError
from bridgetower_train.files import recreate
from bridgetower_train.foreign import open_regular
from data_prep.source.local import local_path
from data_prep.source.rows import WEB, Part, PartError, Parts, Row

MISSING_FILE = "missing file"

_PIPE = "pipe:"
_FETCHED, _IMAGES = ".source", ".images"
_AHEAD_REMOTE, _AHEAD_LOCAL = 4, 1  # files


def named_files(source: str, suffix: str, allow_pipe: bool, follow_links: bool) -> list[str]:
    """The files that `source`, the key of that name, stands for: paths, URLs and, with `pipe:` before them, commands.

    It is one of these, several between `::` or in brackets, with braces or `*`, or a folder: its files that end with `suffix`,
    those of its subfolders too. ConfigError where there is none, a local one does not exist, or a command is not allowed.
    """
    from webdataset.shardlists import expand_urls  # imports torch

    brackets = source.startswith("[") and source.endswith("]")
    try:
        names = [name for text in (_separated(source[1:-1]) if brackets else [source]) for name in expand_urls(text)]
    except ValueError as error:
        raise ConfigError(f"source={source}: its braces do not match ({error})") from None
    found = [file for name in names for file in _files_of(name, suffix, allow_pipe, follow_links)]
    if not found:
        raise ConfigError(f"source={source}: has no {suffix}; name files that end so, or a folder of them")
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


def _files_of(name: str, suffix: str, allow_pipe: bool, follow_links: bool) -> Iterator[str]:
    if name.startswith(_PIPE):
        if not allow_pipe:
            raise ConfigError(f"source={name}: runs a command; set allow_pipe=true if that is what you want")
        yield name
    elif not is_remote(name):
        yield from _local_files(name.removeprefix("file://"), suffix, follow_links)
    elif name.startswith(WEB) or (_plain(name).endswith(suffix) and "*" not in name):
        yield name
    else:
        yield from _remote_files(name, suffix)


def _local_files(name: str, suffix: str, follow_links: bool) -> Iterator[str]:
    path = Path(name)
    if path.is_dir():
        yield from map(str, sorted(file for file in path.rglob(f"*{suffix}") if not file.name.startswith(".")))
        return
    for found in sorted(glob.glob(name)) if "*" in name else [name]:
        path = Path(found)
        try:
            if not local_path(str(path.parent), path.name, follow_links).exists():
                raise ConfigError(f"source={path}: does not exist; name files that do, or a folder of them")
        except BadRecordError as error:
            raise ConfigError(f"source={path}: {error.reason}") from None
        yield found


def _remote_files(url: str, suffix: str) -> list[str]:
    try:
        fs, path = url_to_fs(url)
        found = fs.glob(path) if "*" in url else fs.find(path)
        return sorted(fs.unstrip_protocol(name) for name in map(str, found) if name.endswith(suffix))
    except Exception as error:  # every protocol of fsspec has errors of its own
        raise ConfigError(f"source={url}: cannot be listed ({error!r}); check the URL and its credentials") from None


def _plain(url: str) -> str:
    return url.partition("?")[0].partition("#")[0]


def short_name(name: str) -> str:
    """The last part of a path or URL, without its query; of a command its text, without secrets."""
    if name.startswith(_PIPE):
        return without_secrets(name)
    return _plain(name).rstrip("/").rpartition("/")[2]


def open_named(name: str) -> BinaryIO:
    """A file, of which only a part is to be read. Whatever the protocol of its URL raises where it cannot be opened."""
    if not is_remote(name):
        return open_regular(name.removeprefix("file://"))
    fs, path = url_to_fs(name)
    file: BinaryIO = fs.open(path, "rb")
    return file


def about_files(names: Sequence[str]) -> str:
    """A few words about them, for cards."""
    others = f" and {len(names) - 1:,} others" if names[1:] else ""
    return f"prepared from {short_name(names[0])}{others}"


class FileParts(Parts):
    """Files, each of which becomes a shard."""

    total = None

    def __init__(self, names: Sequence[str], follow_links: bool, choices: dict[str, str]) -> None:
        """`choices`: on what else the rows depend; empty ones are left out."""
        sizes = [None if is_remote(name) or name.startswith(_PIPE) else os.stat(name).st_size for name in names]
        named = "".join(f"{without_secrets(name)}\n{size}\n" for name, size in zip(names, sizes, strict=True))
        self.ahead = _AHEAD_REMOTE if None in sizes else _AHEAD_LOCAL
        self.names, self.follow_links = names, follow_links
        self._identity = {"files": f"{len(names)}", "source": sha256(named.encode("utf-8", "replace")).hexdigest()}
        self._identity |= {key: value for key, value in choices.items() if value}

    def __len__(self) -> int:
        return len(self.names)

    def identity(self) -> dict[str, str]:
        return self._identity


@dataclass
class FilePart(Part):
    """The rows of a file."""

    number: int
    name: str
    """Path, URL or command."""
    follow_links: bool
    before: Mapping[str, int] = field(default_factory=dict)
    folder: Path | None = None
    """Where it has put files."""

    def rows(self, folder: Path) -> dict[int, Row]:
        """A file that does not exist, or is none, is a row with a state."""
        self.folder = folder
        try:
            return dict(enumerate(self.read(self._bring())))
        except FileNotFoundError:
            return {0: self.left_out(0, "", MISSING_FILE)}
        except BadRecordError as error:
            return {0: self.left_out(0, "", error.reason)}
        except FetchError as error:
            raise PartError(str(error)) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise PartError(f"{self.name}: cannot be read ({error.strerror or error})") from error

    def read(self, path: Path) -> list[Row]:
        """The rows of the file, which is here now; what is written to `own_file` stays until they are done.

        BadRecordError, whose reason is a state; OSError.
        """
        raise NotImplementedError

    def close(self) -> None:
        if self.folder is not None:
            for suffix in (_FETCHED, _IMAGES):
                self.own_file(suffix).unlink(missing_ok=True)

    def key(self, number: int) -> str:
        """A key for a row that has none of its own."""
        return f"{self.number:06d}-{number:06d}"

    def left_out(self, number: int, where: str, reason: str) -> Row:
        """A row that only says what is wrong."""
        location = " ".join(filter(None, (short_name(self.name), where)))
        return Row(self.key(number), location, [], state=reason)

    def own_file(self, suffix: str = _IMAGES) -> Path:
        """A file of this part's."""
        assert self.folder is not None
        return self.folder / f"{self.number:06d}{suffix}"

    def _bring(self) -> Path:
        """The path of the file on this machine."""
        if not self.name.startswith(_PIPE) and not is_remote(self.name):
            path = Path(self.name.removeprefix("file://"))
            return local_path(str(path.parent), path.name, self.follow_links)
        with recreate(self.own_file(_FETCHED)) as file:
            if self.name.startswith(_PIPE):
                _run(self.name, file.fileno())
            else:
                fetch(self.name, file)
        return self.own_file(_FETCHED)


def _run(name: str, output: int) -> None:
    """Run a command of the user's, which ends with this process."""
    command = subprocess.Popen(
        name.removeprefix(_PIPE), shell=True, stdin=subprocess.DEVNULL, stdout=output, start_new_session=True
    )

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)

    atexit.register(end)
    code = command.wait()
    atexit.unregister(end)
    if code:
        raise PartError(f"{name}: ended with exit code {code}")
