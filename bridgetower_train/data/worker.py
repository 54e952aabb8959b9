"""What a loader process does differently: its signals, its memory, its end."""

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
    """uint8 (count, size, size, 3); in a loader worker it is shared memory, which the queue hands on without a copy."""
    shape = (count, size, size, 3)
    if get_worker_info() is None:
        return torch.from_numpy(np.empty(shape, dtype=np.uint8))  # numpy asks for huge pages, torch does not
    storage = torch.UntypedStorage._new_shared(count * size * size * 3)
    shared: Tensor = torch.empty(0, dtype=torch.uint8).set_(storage)
    return shared.view(shape)


def start_worker(worker: int) -> None:
    """Leave signals to the main process: launchers send them to the whole group, while it still needs batches.

    Only the main process's own SIGTERM, by which torch ends a worker that does not answer, is obeyed.
    """
    gc.freeze()  # else the first collection would copy all that the worker still shares with the main process
    for signum in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_parent, daemon=True).start()


def killed_worker(error: RuntimeError, data: DataConfig) -> UserError | None:
    """What to say, instead of torch's `error`, of a worker that was killed; None for other errors.

    Torch raises it from a signal handler: the main process meets it wherever it is, and not only where it asks for a batch.
    """
    pattern = r"DataLoader (worker(?: \(pid.*?\d\))?) (?:(is killed by signal: [\w ]+)|exited)"
    said = re.match(pattern, str(error.__cause__)) or re.match(pattern, str(error))
    if said is None:
        return None
    return UserError(
        f"loader {said[1]} {said[2] or 'ended unexpectedly'}: most often the host was short of memory, or /dev/shm of space. "
        f"Lower data.workers={data.workers} or data.prefetch={data.prefetch}, or give the job more (Docker: --memory, and "
        "--ipc=host or --shm-size); the kernel's log (dmesg) names what it killed for lack of memory"
    )


def _obey_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)
