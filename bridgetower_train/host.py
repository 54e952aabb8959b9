"""What this machine and its container have."""

import os
from pathlib import Path


def free_memory(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that a new process may use without swapping, within the limit of its container (Linux; elsewhere all of it)."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text().splitlines() if meminfo.exists() else ():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        given = (groups / limit).read_text().strip() if (groups / limit).exists() else "max"
        if given != "max":
            free = min(free, int(given) - int((groups / used).read_text()))
    return free
