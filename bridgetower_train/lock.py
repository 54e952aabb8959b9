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
from pathlib import Path

from bridgetower_train.errors import UserError

log = logging.getLogger(__name__)

LOCK = "lock"
"""Name of the locked file; it is not removed, and names the last holder."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # Lustre and NFS with some mount options


@contextlib.contextmanager
def hold(folder: Path, key: str) -> Iterator[None]:
    """Lock `folder` (created if missing) while the block runs; UserError naming the holder if another process has it.

    `key`: the configuration key of the folder. The lock is a POSIX record lock: it ends with the process that took it, however
    that ends, is not inherited by its workers, and works between hosts that share an NFS folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{key}={folder}: {_holder(folder)}; wait for it, end it, or choose another {key}"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            log.warning(f"{key}={folder}: its file system has no locks; make sure that nothing else writes there")
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}))
        file.flush()
        yield


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / LOCK).read_text())
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(holder["since"]))
        return f"in use by process {holder['pid']} on {holder['host']} since {since}"
    except (OSError, ValueError, KeyError, TypeError):
        return "in use by another process"
