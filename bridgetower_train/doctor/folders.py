"""The folders that a run writes to: access, room, speed, and whether their server's clock is ours."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bridgetower_train.config import TrainConfig
from bridgetower_train.doctor.findings import Finding, fail, ok, warning

PROBE_BYTES = 32 << 20
SLOW = 50e6
"""Bytes per second below which a checkpoint of a large model (10 GB) takes minutes."""
CLOCK_SKEW = 2.0
"""Seconds between our clock and a file server's from which on it is worth a word."""


def check_folders(config: TrainConfig) -> list[Finding]:
    """Run folder, cache and temporary folder."""
    folders = {"run_dir": config.run_dir, "temporary folder (TMPDIR)": tempfile.gettempdir()}
    if config.data.cache_dir:
        folders["data.cache_dir"] = config.data.cache_dir
    return [finding for key, folder in folders.items() for finding in check_folder(key, Path(folder))]


def check_folder(key: str, folder: Path) -> Iterator[Finding]:
    """Write a probe into `folder`, or into the nearest folder above it that exists, and take it away again."""
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    shown = str(folder) if place == folder.absolute() else f"{folder} (to be made in {place})"
    if not place.is_dir():
        yield fail(key, f"{shown}: {place} is no folder", f"choose another {key}")
        return
    try:
        speed, skew = probe(place)
    except OSError as error:
        yield fail(
            key, f"{shown}: {error.strerror}", f"give user {os.getuid()} write access, make room, or change {key}"
        )
        return
    free = shutil.disk_usage(place).free
    found = f"{shown}: {speed / 1e6:.0f} MB/s written and synced, {free / 1e9:.0f} GB free"
    if speed < SLOW:
        yield warning(key, found, "checkpoints will take long: take a faster disk, or raise checkpoint.every")
    else:
        yield ok(key, found)
    if abs(skew) > CLOCK_SKEW:
        yield warning(
            key, f"its clock is {skew:+.1f} s from ours", "synchronise this host and the file server (chrony)"
        )


def probe(folder: Path) -> tuple[float, float]:
    """(bytes per second written and synced, seconds by which the file's time is ahead of our clock)."""
    data = os.urandom(1 << 20) * (PROBE_BYTES >> 20)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor") as file:
        start = time.perf_counter()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        elapsed = time.perf_counter() - start
        return PROBE_BYTES / elapsed, os.stat(file.name).st_mtime - time.time()
