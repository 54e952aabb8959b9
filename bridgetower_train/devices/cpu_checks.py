"""The CPU: threads against cores."""

import os
from collections.abc import Callable, Mapping

import torch

from bridgetower_train.config import TrainConfig
from bridgetower_train.display import plural
from bridgetower_train.findings import Finding, ok, warning


def check_cpu(config: TrainConfig, env: Mapping[str, str], run: Callable[..., str | None]) -> list[Finding]:
    """Threads of all local ranks against the cores that this process may use."""
    cores = len(os.sched_getaffinity(0))
    ranks = int(env.get("LOCAL_WORLD_SIZE", "1"))
    threads = torch.get_num_threads()
    found = f"{plural(ranks, 'rank')} x {plural(threads, 'thread')} on {plural(cores, 'core')} (of {os.cpu_count()})"
    setting = f"OMP_NUM_THREADS={max(1, cores // ranks)}"
    if ranks * threads > cores:
        return [warning("threads", found, f"export {setting}: threads that share a core slow each other down")]
    if ranks * threads < cores // 2:
        return [warning("threads", found, f"export {setting} to use all cores")]
    return [ok("threads", found)]
