"""A lock for folders with one writer at a time: of a run, or of a corpus that is being written."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bridgetower_train.display import printable
from bridgetower_train.errors import UserError
from bridgetower_train.files import open_own, remove_left_overs
from bridgetower_train.foreign import read_json

log = logging.getLogger(__name__)

LOCK = "lock"
"""Name of the locked file; it is not removed, and names the last holder."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # Lustre and NFS with some mount options

_LONGEST = 4096  # bytes of the file; it is about 80


@dataclass(frozen=True)
class Holder:
    """The process that has, or had, the lock."""

    host: str
    pid: int
    since: float


@dataclass(frozen=True)
class Lock:
    """A locked folder."""

    folder: Path
    key: str
    file: BinaryIO

    def check(self) -> None:
        """UserError if the folder was moved or removed, so that its path leads to nothing, or to a folder of others."""
        held = os.fstat(self.file.fileno())
        try:
            there = (self.folder / LOCK).lstat()
        except (FileNotFoundError, NotADirectoryError):
            there = None
        if there is None or not os.path.samestat(held, there):
            raise UserError(
                f"{self.key}={self.folder}: was moved or removed, or its file {LOCK} was, and nothing more is written there; "
                "put it back, and run the same command again"
            )


@contextlib.contextmanager
def hold(folder: Path, key: str) -> Iterator[Lock]:
    """Lock `folder` (created if missing) while the block runs; UserError naming the holder if another process has it.

    `key`: the configuration key of the folder. The lock is a POSIX record lock: it ends with the process that took it, however
    that ends, is not inherited by its workers, and works between hosts that share an NFS folder. UserError too if the file
    was put there by something else: it is not touched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open_own(folder / LOCK) as file:
        try:
            if not locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                log.warning(f"{key}={folder}: its file system has no locks; make sure that nothing else writes there")
        except BlockingIOError:
            raise UserError(
                f"{key}={folder}: {_holder(folder)}; wait for it, end it, or choose another {key}"
            ) from None
        _check(folder / LOCK, file)
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}).encode())
        file.flush()
        remove_left_overs(folder)
        yield Lock(folder, key, file)


def locked(file: BinaryIO, how: int) -> bool:
    """Lock an open file as `fcntl.lockf` does; False where its file system has no locks. OSError as of `lockf`."""
    try:
        fcntl.lockf(file, how)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _check(path: Path, file: BinaryIO) -> None:
    """UserError if the file holds something other than what `hold` writes."""
    content = file.read(_LONGEST)
    file.seek(0)
    if content and not (content.startswith(b"{") and b'"pid"' in content and len(content) < _LONGEST):
        raise UserError(f"{path}: holds something else than a lock; move it away, or choose another folder")


def _holder(folder: Path) -> str:
    try:
        holder = read_json(folder / LOCK, Holder, _LONGEST)
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(holder.since))
        return f"in use by process {holder.pid} on {printable(holder.host)} since {since}"
    except (OSError, ValueError, OverflowError):
        return "in use by another process"
