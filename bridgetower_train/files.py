"""Atomic files, large files written past the kernel's cache, and folders."""

import errno
import fcntl
import hashlib
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from bridgetower_train.errors import FileError
from bridgetower_train.foreign import open_regular

_TEMPORARY = ".tmp"


def sha256_file(path: str | Path | int) -> str:
    """SHA-256 of a regular file's bytes, in hex. A descriptor is closed.

    OSError where it cannot be read, FileError where it is another kind of file.
    """
    digest = hashlib.sha256()
    with os.fdopen(path, "rb") if isinstance(path, int) else open_regular(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def create(path: Path, flags: int = 0) -> int:
    """The descriptor of a new file. FileExistsError if something has its name, be it a link: nothing is written through it."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o666)


def recreate(path: Path) -> BinaryIO:
    """A new file in place of whatever has its name; of a link, the link is removed and its target left alone."""
    path.unlink(missing_ok=True)
    return os.fdopen(create(path), "wb")


def open_own(path: Path, flags: int = 0) -> BinaryIO:
    """A file for reading and writing, unbuffered, created if missing, whatever its owner: folders of a group have several.

    FileError if it is a link, has other names too, or is no regular file: it may be a file that somebody else needs.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO):
            raise FileError(
                f"{path}: is a link, a folder or the like, and must be a file of its own; remove it"
            ) from None
        raise
    file = os.fdopen(descriptor, "rb+", buffering=0)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        file.close()
        raise FileError(f"{path}: is a device or a hard link, and must be a file of its own; remove it")
    return file  # type: ignore[return-value]


def write_all(file: BinaryIO | FileIO, data: bytes) -> None:
    """Write all of `data` to an unbuffered file."""
    rest = memoryview(data)
    while rest:  # on a disk that becomes full a write is cut short, and the next one raises
        rest = rest[file.write(rest) :]


class Appending:
    """A file to whose end pieces are written at once, created if missing: a kill loses none of them."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        """OSError, with the file's name, where it cannot, as on a full disk; some of the piece may be there then."""
        try:
            write_all(self._file, data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def own_folder(path: Path) -> None:
    """Create a folder if it is missing. FileError if a link has its name: what is written to it would land elsewhere."""
    path.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        raise FileError(f"{path}: is a link, and must be a folder of its own; remove it")


def is_ours_alone(path: Path) -> bool:
    """Whether a folder is this user's, and no other user can write to it."""
    found = path.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & 0o022


def remove_left_overs(folder: Path) -> None:
    """Remove the temporary files of processes that were killed a day ago or earlier while they wrote to `folder`."""
    for path in folder.glob(f".*.{'[0-9a-f]' * 16}{_TEMPORARY}"):
        with suppress(OSError):
            if path.lstat().st_mtime < time.time() - 86400:
                path.unlink()


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces `path` atomically at the end of the block: neither a reader nor a crash leaves half of it.

    FileError if `path` is no name of a file, as an empty one.
    """
    if not path.name:
        raise FileError(f"{str(path)!r}: is no name of a file; name one")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_TEMPORARY}")
    try:
        with os.fdopen(create(temporary), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def atomic_write(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` atomically, as `replacing` does."""
    with replacing(path) as file:
        file.write(content.encode("utf-8", "replace") if isinstance(content, str) else content)


def sync(path: Path) -> None:
    """Flush the contents of a file, or the names in a folder where its file system can, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.EOPNOTSUPP)):
            raise
    finally:
        os.close(descriptor)


def nearest_folder(path: Path) -> Path:
    """`path`, absolute, or the nearest path above it that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def writable(folder: Path) -> bool:
    """Whether a file can be created in `folder`; it is removed again."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@contextmanager
def open_direct(path: Path) -> Iterator[int]:
    """The descriptor of a new file for `write_direct`, closed with the block.

    Large files bypass the kernel's cache if the system supports that: the copy takes longer than a fast disk needs, a core, and
    evicts what is read repeatedly.
    """
    descriptor = create(path)
    try:
        with suppress(OSError):  # tmpfs and some network file systems
            _set_direct(descriptor, True)
        yield descriptor
    finally:
        os.close(descriptor)


def write_direct(descriptor: int, data: memoryview) -> None:
    """Write all of `data`, which consists of whole pages of memory, to the end of a file of whole pages."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except OSError as error:
            if error.errno != errno.EINVAL or not _set_direct(descriptor, False):
                raise  # EINVAL: the file system needs larger blocks, or the file ended within one


def _set_direct(descriptor: int, direct: bool) -> bool:
    """Returns whether this is a change."""
    flag = getattr(os, "O_DIRECT", 0)
    before = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    after = before | flag if direct else before & ~flag
    fcntl.fcntl(descriptor, fcntl.F_SETFL, after)
    return after != before
