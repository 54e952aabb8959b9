"""The host: shared memory, open files, memory."""

import os
import resource
import shutil
from pathlib import Path

from bridgetower_train.config import TrainConfig
from bridgetower_train.findings import Finding, fail, ok, warning
from bridgetower_train.host import free_memory

SHARED_MEMORY = Path("/dev/shm")
OPEN_SHARDS = 64
"""Shards that a loader worker keeps open per corpus."""
OTHER_FILES = 256
"""Descriptors for libraries, sockets, metrics and batches in flight: a generous estimate."""


def check_machine(config: TrainConfig) -> list[Finding]:
    """What the operating system grants to each rank."""
    return [check_shared_memory(config), check_open_files(config), check_memory()]


def shared_bytes(config: TrainConfig, ranks: int) -> int:
    """Bytes of /dev/shm for the micro-batches that the loader workers of `ranks` local ranks have in flight.

    If `micro_batch` is not set, a micro-batch is one lane's share of the step, the minimum of a rank.
    """
    pairs = config.micro_batch or config.samples_per_lane
    image = 3 * config.model.image_size**2
    return ranks * config.data.workers * (config.data.prefetch + 1) * pairs * image


def check_shared_memory(config: TrainConfig, folder: Path = SHARED_MEMORY) -> Finding:
    """Whether the batches of the loader workers fit in /dev/shm."""
    if not folder.is_dir():
        return fail("shared memory", f"no {folder}", "mount a tmpfs there, or set data.workers=0")
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    size, need = shutil.disk_usage(folder).total, shared_bytes(config, ranks)
    found = f"{folder} has {size / 1e9:.2f} GB, {ranks} ranks x {config.data.workers} workers need {need / 1e9:.2f} GB"
    if size < need:
        todo = "start Docker with --ipc=host or --shm-size, or lower data.workers, data.prefetch"
        return fail("shared memory", found, todo)
    if size < 2**28:
        todo = "Docker's default of 64 MB is too small: use --ipc=host or --shm-size=8g"
        return warning("shared memory", found, todo)
    return ok("shared memory", found)


def check_open_files(config: TrainConfig) -> Finding:
    """Whether a process may open as many files as a loader worker keeps open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = OPEN_SHARDS * max(1, len(config.data.corpora)) + OTHER_FILES
    found = f"{'unlimited' if limit == resource.RLIM_INFINITY else limit}; a loader worker may need {need}"
    if limit != resource.RLIM_INFINITY and limit < need:
        return fail("open files", found, "run ulimit -n 65536, or use Docker's --ulimit nofile=65536:65536")
    return ok("open files", found)


def check_memory() -> Finding:
    """Memory that is free for this process, within the limit of its container."""
    free = free_memory()
    found = f"{free / 1e9:.1f} GB free"
    if free < 4e9:
        todo = "end other processes: while loading, each rank has weights and optimizer on the host"
        return warning("memory", found, todo)
    return ok("memory", found)
