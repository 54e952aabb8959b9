"""A cache for shards of a remote root (any fsspec URL): a folder on the host, shared by all its processes."""

import contextlib
import fcntl
import hashlib
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from fsspec.asyn import reset_lock
from fsspec.config import apply_config
from fsspec.core import url_to_fs

from bridgetower_train.errors import ConfigError, DataError
from bridgetower_train.files import sha256_file

RETRY_DELAYS = (1.0, 4.0, 16.0)
"""Seconds to wait before each retry of a failed request."""
STALL_SECONDS = 60.0
"""Seconds without a byte after which an HTTP request counts as failed."""

_STALE_SECONDS = 3600.0  # a partial file that has not grown for this long belongs to a process that was killed
_LOCKS = 64
_MARK = ".bridgetower-cache"
_OWN = re.compile(r"[0-9a-f]{16}-.+")
_PARTIAL = re.compile(r".+\.(\d+)\.part")
_OPEN_TRIES = 3

T = TypeVar("T")

os.register_at_fork(after_in_child=reset_lock)  # before fsspec 2025.5 a forked child waits for its parent's thread


def read_url(url: str) -> bytes:
    """The contents of a small remote file. DataError if it cannot be fetched."""

    def read() -> bytes:
        fs, path = _file_system(url)
        return bytes(fs.cat_file(path))

    return _retried(url, read)


class ShardCache:
    """A folder of fetched files; before it would exceed `max_bytes`, the least recently opened are evicted.

    Processes of one host may share it: locks make sure that a file is fetched once. A process that has an evicted file
    open can still read it. Only files of the cache's own names are ever evicted.
    """

    def __init__(self, folder: str, max_bytes: int) -> None:
        """Marks `folder` as a cache. ConfigError where an unmarked one has files of others."""
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self._locks = self.folder / "locks"
        mark = self.folder / _MARK
        if self.folder.is_dir() and not mark.is_file():
            names = {entry.name for entry in os.scandir(self.folder)} - {
                "locks",
                _MARK,
            }  # another process may just mark it
            others = sorted(name for name in names if not _OWN.fullmatch(name))
            if others:
                raise ConfigError(
                    f"data.cache_dir={folder}: has files that are not the cache's ({', '.join(others[:3])}"
                    f"{', ...' if others[3:] else ''}); choose an empty or new folder"
                )
        self._locks.mkdir(parents=True, exist_ok=True)
        mark.touch()
        self._wanted: tuple[int, queue.Queue[tuple[str, int, str]]] | None = None

    def __reduce__(self) -> tuple[type["ShardCache"], tuple[str, int]]:
        return ShardCache, (str(self.folder), self.max_bytes)

    def fetch(self, url: str, size: int, sha256: str) -> Path:
        """Local path of `url`, downloaded unless it is cached; `size` (bytes) is the space to make for it.

        DataError if it cannot be fetched, is larger than the cache, or has a different SHA-256.
        """
        if size > self.max_bytes:
            raise DataError(f"{url}: {size / 1e9:.1f} GB exceed data.cache_gb={self.max_bytes / 1e9:g}; raise it")
        path = self.folder / f"{hashlib.sha256(f'{url} {sha256}'.encode()).hexdigest()[:16]}-{url.rpartition('/')[2]}"
        if not _touch(path):
            with self._lock(str(int(path.name[:8], 16) % _LOCKS)):
                if not _touch(path):
                    self._download(url, size, sha256, path)
        return path

    def open(self, url: str, size: int, sha256: str) -> int:
        """A file descriptor of `url`, fetched first if necessary. DataError as in `fetch`."""
        for _ in range(_OPEN_TRIES):
            with contextlib.suppress(FileNotFoundError):  # evicted by another process after it was fetched
                return os.open(self.fetch(url, size, sha256), os.O_RDONLY)
        raise DataError(f"{url}: evicted from {self.folder} before it could be opened; raise data.cache_gb")

    def prefetch(self, files: Iterable[tuple[str, int, str]]) -> None:
        """Fetch (url, size, sha256) in a background thread, in order; failures are left to `fetch`."""
        if self._wanted is None or self._wanted[0] != os.getpid():  # threads do not survive a fork
            self._wanted = os.getpid(), queue.Queue()
            threading.Thread(target=self._fetch_wanted, args=(self._wanted[1],), daemon=True).start()
        for file in files:
            self._wanted[1].put(file)

    def _fetch_wanted(self, wanted: "queue.Queue[tuple[str, int, str]]") -> None:
        while True:
            with contextlib.suppress(DataError):
                self.fetch(*wanted.get())

    def _download(self, url: str, size: int, sha256: str, path: Path) -> None:
        partial = path.with_name(f"{path.name}.{size}.part")

        def download() -> None:
            self._make_room(partial, size)
            try:
                fs, remote = _file_system(url)
                fs.get_file(remote, str(partial))
                if sha256_file(partial) != sha256:
                    raise ValueError("its SHA-256 differs from the manifest's; has it changed since it was indexed?")
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)

        _retried(url, download)

    def _make_room(self, partial: Path, size: int) -> None:
        """Evict files until `size` bytes fit, and reserve them under the name `partial`."""
        with self._lock("room"):
            files = []
            for entry in os.scandir(self.folder):
                with contextlib.suppress(FileNotFoundError):
                    own = _OWN.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
                    if own and entry.name != partial.name:
                        files.append((entry.stat().st_mtime, _room(entry), entry))
            excess = sum(room for _, room, _ in files) + size - self.max_bytes
            for used, room, entry in sorted(files, key=lambda file: file[0]):
                active = _PARTIAL.fullmatch(entry.name) and time.time() - used < _STALE_SECONDS
                if excess > 0 and not active:
                    Path(entry.path).unlink(missing_ok=True)
                    excess -= room
            partial.touch()

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        with open(self._locks / name, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough if a fork has copied the descriptor


def _file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for `url`, and the path in it: opened for each use, since one must not be used across a fork."""
    options: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        from aiohttp import ClientTimeout  # slow to import, and only needed for HTTP
        from fsspec.implementations.http import HTTPFileSystem

        timeout = ClientTimeout(total=None, sock_connect=STALL_SECONDS, sock_read=STALL_SECONDS)
        configured = apply_config(HTTPFileSystem, {}).get("client_kwargs", {})  # such as a header with credentials
        options["client_kwargs"] = {**configured, "timeout": timeout}
    fs, path = url_to_fs(url, **options)
    return fs, path


def _room(entry: "os.DirEntry[str]") -> int:
    """Bytes that a file of the cache takes, or will take: partial files have their final size in their name."""
    partial = _PARTIAL.fullmatch(entry.name)
    return int(partial[1]) if partial else entry.stat().st_size


def _retried(url: str, action: Callable[[], T]) -> T:
    """The result of `action`, retried after each of RETRY_DELAYS; then DataError."""
    for delay in (*RETRY_DELAYS, None):
        try:
            return action()
        except FileNotFoundError as error:
            raise DataError(f"{url}: does not exist; check data.root") from error
        except Exception as error:  # every protocol of fsspec has its own errors
            if delay is None:
                raise DataError(
                    f"{url}: cannot be fetched, {len(RETRY_DELAYS) + 1} tries failed: {error or repr(error)}"
                ) from error
            time.sleep(delay)
    raise AssertionError


def _touch(path: Path) -> bool:
    """Whether `path` exists; if so it is now the most recently used."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True
