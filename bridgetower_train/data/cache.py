"""A cache for shards of a remote root (any fsspec URL): a folder on the host, shared by all its processes."""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import logging
import os
import queue
import re
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from fsspec.asyn import reset_lock, sync
from fsspec.config import apply_config
from fsspec.core import url_to_fs

from bridgetower_train.display import printable
from bridgetower_train.errors import ConfigError, DataError, UserError
from bridgetower_train.files import create, is_ours_alone, open_own, sha256_file
from bridgetower_train.foreign import MAX_JSON

log = logging.getLogger(__name__)

RETRY_DELAYS = (1.0, 4.0, 16.0)
"""Seconds to wait before each retry of a failed request."""
OUTAGE_DELAY = 60.0
"""Seconds between further retries, where an outage is waited out, and between the lines that say so."""
STALL_SECONDS = 60.0
"""Seconds without a byte after which an HTTP request counts as failed."""

_CHUNK = 1 << 18  # larger ones leave the processor's cache
_BLOCK = 1 << 25  # what object stores are asked for at once
_STALE_SECONDS = 3600.0  # a partial file that has not grown for this long belongs to a process that was killed
_LOCKS = 64
_MARK = ".bridgetower-cache"
_OWN = re.compile(r"[0-9a-f]{16}-.+", re.DOTALL)
_PARTIAL = re.compile(r"[0-9a-f]{16}-.+\.([0-9]{1,18})\.part", re.DOTALL)
_LONGEST_NAME = 100  # of a shard, in the name of its file in the cache

T = TypeVar("T")

os.register_at_fork(after_in_child=reset_lock)  # before fsspec 2025.5 a forked child waits for its parent's thread


class _OtherContentsError(Exception):
    """A remote file is not what the manifest says."""


class FetchError(DataError):
    """A remote file cannot be fetched."""


def read_url(url: str, limit: int = MAX_JSON) -> bytes:
    """The contents of a small remote file. DataError if it cannot be fetched, or has more than `limit` bytes."""
    return _retried(url, lambda: b"".join(_chunks(url, limit)))


def fetch(url: str, file: BinaryIO) -> None:
    """Write a remote file to `file`, an empty one. FileNotFoundError if there is none, FetchError if it cannot be fetched.

    DataError where there is no room for it.
    """

    def attempt() -> None:
        file.seek(0)
        file.truncate()
        for chunk in _chunks(url, sys.maxsize):
            try:
                file.write(chunk)
            except OSError as error:
                raise DataError(f"{file.name}: {error.strerror}; make room for fetched files") from error

    try:
        _retried(url, attempt)
    except FetchError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from None
        raise


class ShardCache:
    """A folder of fetched files; before it would exceed `max_bytes`, the least recently opened are evicted.

    Processes of one host may share it: locks make sure that a file is fetched once. A process that has an evicted file
    open can still read it. Only files of the cache's own names are ever evicted.
    """

    def __init__(self, folder: str, max_bytes: int, shared: bool = False, patience: float = 0.0) -> None:
        """Marks `folder` as a cache. ConfigError where an unmarked one has files of others.

        `shared`: users of this host share it. Otherwise ConfigError where others can write to it, and their files are not used.
        `patience`: seconds for which an outage of the root is waited out.
        """
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self.shared = shared
        self.patience = patience
        self._locks = self.folder / "locks"
        mark = self.folder / _MARK
        if not shared and self.folder.is_dir():
            self._make_private()
        if self.folder.is_dir() and not mark.is_file():
            # another process may just mark it
            names = {entry.name for entry in os.scandir(self.folder)} - {"locks", _MARK}
            others = sorted(name for name in names if not _OWN.fullmatch(name))
            if others:
                raise ConfigError(
                    f"data.cache_dir={folder}: has files that are not the cache's ({', '.join(others[:3])}"
                    f"{', ...' if others[3:] else ''}); choose an empty or new folder"
                )
        self.folder.mkdir(0o777 if shared else 0o700, parents=True, exist_ok=True)
        self._locks.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(create(mark))
        self._wanted: tuple[int, queue.Queue[tuple[str, int, str]]] | None = None
        self._intact: dict[str, tuple[int, int]] = {}  # name -> inode and size of what this process has checked

    def __reduce__(self) -> tuple[type["ShardCache"], tuple[str, int, bool, float]]:
        return ShardCache, (str(self.folder), self.max_bytes, self.shared, self.patience)

    def fetch(self, url: str, size: int, sha256: str) -> Path:
        """Local path of `url`, as `open` has it, without waiting for an outage to pass. It may be evicted at any time."""
        os.close(self.open(url, size, sha256, 0.0))
        return self._path(url, sha256)

    def open(self, url: str, size: int, sha256: str, patience: float | None = None) -> int:
        """A file descriptor of `url`, fetched unless it is cached; `size`: bytes that it has at most.

        `patience`: as of the cache, unless it is given.

        The SHA-256 is checked when it is fetched, or at its first opening by this process. DataError if it cannot be fetched,
        is larger than `size` or than the cache, or has a different SHA-256.
        """
        try:
            return self._open(url, size, sha256, self.patience if patience is None else patience)
        except OSError as error:
            raise DataError(f"data.cache_dir={self.folder}: {error}; name a folder on a disk that works") from error

    def _open(self, url: str, size: int, sha256: str, patience: float) -> int:
        if size > self.max_bytes:
            raise DataError(f"{url}: {size / 1e9:.1f} GB exceed data.cache_gb={self.max_bytes / 1e9:g}; raise it")
        path = self._path(url, sha256)
        descriptor = self._cached(path, size, sha256)
        if descriptor is None:
            with self._lock(str(int(path.name[:8], 16) % _LOCKS)):
                descriptor = self._cached(path, size, sha256)  # another process may have fetched it meanwhile
                if descriptor is None:
                    descriptor = self._download(url, size, sha256, path, patience)
        return descriptor

    def prefetch(self, files: Iterable[tuple[str, int, str]]) -> None:
        """Fetch (url, size, sha256) in a background thread, in order; failures are left to `fetch`."""
        if self._wanted is None or self._wanted[0] != os.getpid():  # threads do not survive a fork
            self._wanted = os.getpid(), queue.Queue()
            threading.Thread(target=self._fetch_wanted, args=(self._wanted[1],), daemon=True).start()
        for file in files:
            self._wanted[1].put(file)

    def _fetch_wanted(self, wanted: "queue.Queue[tuple[str, int, str]]") -> None:
        while True:
            with contextlib.suppress(Exception):  # whatever it is, the reader will meet it
                self.fetch(*wanted.get())

    def _make_private(self) -> None:
        """Close the folder to others. ConfigError if it is not this user's, or if others could write to it until now."""
        if not is_ours_alone(self.folder):
            raise ConfigError(
                f"data.cache_dir={self.folder}: is another user's, or others can write to it; name a new folder, `chmod 700` "
                "your own, or set data.cache_shared=true if you trust them"
            )
        if self.folder.stat().st_mode & 0o077:
            self.folder.chmod(0o700)

    def _path(self, url: str, sha256: str) -> Path:
        name = url.rpartition("/")[2][-_LONGEST_NAME:]
        return self.folder / f"{hashlib.sha256(f'{url} {sha256}'.encode()).hexdigest()[:16]}-{name}"

    def _cached(self, path: Path, size: int, sha256: str) -> int | None:
        """A descriptor of a cached file, which is now the most recently used one; None if there is none, or a changed one."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP, errno.EACCES, errno.EIO, errno.ESTALE):
                raise
            return None
        found = os.fstat(descriptor)
        seen = found.st_ino, found.st_size
        ours = stat.S_ISREG(found.st_mode) and (self.shared or found.st_uid == os.geteuid())
        intact = self._intact.get(path.name) == seen
        if ours and found.st_size <= size and (intact or _has(os.dup(descriptor), sha256)):
            self._intact[path.name] = seen
            with contextlib.suppress(PermissionError):  # of another user
                os.utime(descriptor)
            return descriptor
        os.close(descriptor)
        log.warning(
            f"{path}: has changed since it was fetched, cannot be read, or is another user's; it is fetched again"
        )
        return None

    def _download(self, url: str, size: int, sha256: str, path: Path, patience: float) -> int:
        part = path.with_name(f"{path.name}.{size}.part")

        def download() -> int:
            digest = hashlib.sha256()
            try:
                with os.fdopen(self._reserve(part, size), "wb") as file:
                    for chunk in _chunks(url, size):
                        digest.update(chunk)
                        file.write(chunk)
                if digest.hexdigest() != sha256:
                    raise _OtherContentsError(
                        "its SHA-256 differs from the manifest's; has it changed since it was indexed?"
                    )
                descriptor = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                found = os.fstat(descriptor)
                self._intact[path.name] = found.st_ino, found.st_size
                os.replace(part, path)
                return descriptor
            finally:
                part.unlink(missing_ok=True)

        return _retried(url, download, patience, self._say)

    def _say(self, line: str) -> None:
        """Log what every process of the host meets, by one of them once per OUTAGE_DELAY."""
        with self._lock("outage") as file:
            said = 0.0
            with contextlib.suppress(ValueError):  # of a crash of the machine
                said = float(file.read() or 0)
            if not said <= time.time() < said + 0.9 * OUTAGE_DELAY:
                file.seek(0)
                file.truncate()
                file.write(str(time.time()).encode())
                log.warning(line)

    def _reserve(self, part: Path, size: int) -> int:
        """Evict files until `size` bytes fit, and reserve them under the name `part`: the descriptor of the new file."""
        with self._lock("room"):
            part.unlink(missing_ok=True)
            files = []
            for entry in os.scandir(self.folder):
                with contextlib.suppress(FileNotFoundError):
                    if _OWN.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        files.append((entry.stat().st_mtime, _room(entry), entry))
            excess = sum(room for _, room, _ in files) + size - self.max_bytes
            for used, room, entry in sorted(files, key=lambda file: file[0]):
                active = _PARTIAL.fullmatch(entry.name) and time.time() - used < _STALE_SECONDS
                if excess > 0 and not active:
                    Path(entry.path).unlink(missing_ok=True)
                    excess -= room
            return create(part)

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[BinaryIO]:
        try:
            file = open_own(self._locks / name)
        except PermissionError as error:
            raise ConfigError(
                f"data.cache_dir={self.folder}: {error.filename}: {error.strerror}; let all who share it write to its files, "
                "or name a new folder"
            ) from None
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield file
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough if a fork has copied the descriptor


def _chunks(url: str, limit: int) -> Iterator[bytes]:
    """The bytes of a remote file, as they arrive. DataError as soon as there are more than `limit`."""
    how: dict[str, Any] = {"block_size": _BLOCK}
    options: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        from aiohttp import ClientTimeout  # slow to import, and only needed for HTTP
        from fsspec.implementations.http import HTTPFileSystem

        timeout = ClientTimeout(total=None, sock_connect=STALL_SECONDS, sock_read=STALL_SECONDS)
        configured = apply_config(HTTPFileSystem, {}).get("client_kwargs", {})  # such as a header with credentials
        headers = {**configured.get("headers", {}), "Accept-Encoding": "identity"}
        options["client_kwargs"] = {**configured, "timeout": timeout, "headers": headers}
        how = {"block_size": 0, "size": 1}  # one request: no ranges, and its size is not asked for first
    fs, path = url_to_fs(url, **options)  # for each use, since one must not be used across a fork
    left = limit
    with fs.open(path, "rb", **how) as file:
        # HTTP in whole chunks: every read of it is a switch between threads.
        read = partial(sync, file.loop, _filled, file.r.content) if how["block_size"] == 0 else file.read
        while chunk := read(min(_CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise DataError(
                    f"{url}: has more than {limit:,} bytes, which is more than it can have; check data.root"
                )
            yield chunk


async def _filled(content: Any, size: int) -> bytes:
    """The next `size` bytes of a response, fewer at its end."""
    parts = []
    while size and (part := await content.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _has(descriptor: int, sha256: str) -> bool:
    """Whether a file, which is closed, can be read and has this SHA-256."""
    try:
        return sha256_file(descriptor) == sha256
    except OSError:  # a bad sector, or a server that has lost it
        return False


def _room(entry: "os.DirEntry[str]") -> int:
    """Bytes that a file of the cache takes, or will take: partial files have their final size in their name."""
    part = _PARTIAL.fullmatch(entry.name)
    return int(part[1]) if part else entry.stat().st_size


def _retried(url: str, action: Callable[[], T], patience: float = 0.0, say: Callable[[str], None] = log.warning) -> T:
    """The result of `action`, retried after each of RETRY_DELAYS; then FetchError.

    An outage is waited out for `patience` seconds, which lines to `say` tell.
    """
    began, delays = time.monotonic(), iter(RETRY_DELAYS)
    for tries in itertools.count(1):
        try:
            return action()
        except FileNotFoundError as error:
            raise FetchError(f"{url}: does not exist; check data.root") from error
        except UserError:
            raise
        except ImportError as error:
            raise ConfigError(f"{url}: {error}; install what fsspec needs for it") from error
        except Exception as error:  # every protocol of fsspec has its own errors
            delay, reason = next(delays, None), printable(str(error) or repr(error))
            waited = time.monotonic() - began
            if delay is None and waited < patience and _passes(error):
                delay = min(OUTAGE_DELAY, patience - waited)
                say(
                    f"{url}: cannot be fetched for {waited / 60:.0f} min ({reason}); it is tried for {patience / 3600:g} h "
                    "(data.retry_hours)"
                )
            if delay is None:
                raise FetchError(f"{url}: cannot be fetched, {tries} tries failed: {reason}") from error
            time.sleep(delay)
    raise AssertionError


def _passes(error: Exception) -> bool:
    """Whether what failed may work later; not where access is denied, this host's disk is full, or the file is another."""
    denied = isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return not (denied or full or isinstance(error, _OtherContentsError))
