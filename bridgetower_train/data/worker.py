"""What is special about a loader worker: shared memory, signals, and how it ends."""

import gc
import multiprocessing
import os
import re
import signal
import threading

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from bridgetower_train.config import DataConfig
from bridgetower_train.errors import UserError


def empty_pixels(count: int, size: int) -> Tensor:
    """uint8 (count, size, size, 3); in a loader worker it is shared memory, which the queue passes on without a copy."""
    shape = (count, size, size, 3)
    if get_worker_info() is None:
        return torch.from_numpy(np.empty(shape, dtype=np.uint8))  # numpy uses huge pages, torch does not
    storage = torch.UntypedStorage._new_shared(count * size * size * 3)
    shared: Tensor = torch.empty(0, dtype=torch.uint8).set_(storage)
    return shared.view(shape)


def start_worker(worker: int) -> None:
    """Ignore signals: launchers send them to the whole process group while the main process still needs batches.

    The one exception is SIGTERM from the main process itself, with which torch ends a worker that does not respond.
    """
    gc.freeze()  # otherwise the first collection would copy all memory that is still shared with the main process
    for signum in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_parent, daemon=True).start()


def killed_worker(error: RuntimeError, data: DataConfig) -> UserError | None:
    """The message to show instead of torch's `error` when a worker was killed; None for other errors.

    Torch raises the error in a signal handler, so it can surface anywhere in the main process.
    """
    pattern = r"DataLoader (worker(?: \(pid.*?\d\))?) (?:(is killed by signal: [\w ]+)|exited)"
    match = re.match(pattern, str(error.__cause__)) or re.match(pattern, str(error))
    if match is None:
        return None
    return UserError(
        f"loader {match[1]} {match[2] or 'ended unexpectedly'}: most often the host ran out of memory, or /dev/shm out of "
        f"space. Lower data.workers={data.workers} or data.prefetch={data.prefetch}, or give the job more (Docker: --memory, "
        "and --ipc=host or --shm-size); the kernel log (dmesg) lists processes killed for lack of memory"
    )


def _obey_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)
