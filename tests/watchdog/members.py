"""Ranks without a model: they meet at every step, until one of them meets with a fault."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bridgetower_train import jobs
from bridgetower_train.config import DistributedConfig
from bridgetower_train.distributed import Ranks, init_ranks
from bridgetower_train.watchdog import Watchdog

FAULTS = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "killed with a child": lambda: _leave_a_child(),
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hangs": lambda: jobs._end_with(os.getppid(), os.getppid()),  # a loop in the package, as long as pytest lives
    "fails": lambda: int("nonsense"),
    "": lambda: None,
}


def member(rank: int, world_size: int, port: int, folder: Path, timeout: float, fault: str, when: str) -> None:
    """Twenty steps; one rank meets with `fault`, `before` or `after` it says that it is at step 7, or at the `end`."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    own["TORCHELASTIC_USE_AGENT_STORE"] = True  # as under torchrun, the caller has a store at this port
    os.environ.update({name: str(value) for name, value in own.items()})
    os.dup2(os.open(folder / f"{rank}.txt", os.O_WRONLY | os.O_CREAT), 2)
    torch.set_num_threads(1)
    ranks = init_ranks("gloo", DistributedConfig(timeout=timeout))
    with Watchdog(ranks, timeout) as progress:
        try:
            _run(ranks, progress, FAULTS[fault], when)
        except RuntimeError:
            if when == "aborting":  # as NCCL's and HCCL's threads do where a collective takes too long
                os.abort()
            raise
        if when == "end":
            FAULTS[fault]()
    sys.exit(0)


def _leave_a_child() -> None:
    """End, but for a child that has copies of all connections, as loader workers have."""
    if os.fork():
        os.kill(os.getpid(), signal.SIGKILL)
    os.write(2, str(os.getpid()).encode())
    time.sleep(60)
    os._exit(0)


def _run(ranks: Ranks, progress: Watchdog, fault: Callable[[], object], when: str) -> None:
    for step in range(1, 21):
        if when == "before" and step == 7:
            fault()
        progress.at(step, "training")
        if when in ("after", "aborting") and step == 7:
            fault()
        ranks.barrier()
