"""The folders that a run writes to: access and free space."""

import os
import shutil
import tempfile
from pathlib import Path

from bridgetower_train.config import TrainConfig
from bridgetower_train.files import nearest_folder, writable
from bridgetower_train.findings import Finding, fail, ok


def check_folders(config: TrainConfig) -> list[Finding]:
    """Run folder, cache and temporary folder."""
    folders = {"run_dir": config.run_dir, "temporary folder (TMPDIR)": tempfile.gettempdir()}
    if config.data.cache_dir:
        folders["data.cache_dir"] = config.data.cache_dir
    return [check_folder(key, Path(folder)) for key, folder in folders.items()]


def check_folder(key: str, folder: Path) -> Finding:
    """Whether files can be written to `folder`, or to the nearest folder above it that exists; nothing is left there."""
    existing = nearest_folder(folder)
    shown = str(folder) if existing == folder.absolute() else f"{folder} (to be created in {existing})"
    if not writable(existing):
        todo = f"give user {os.getuid()} write access to a folder, free some space, or change {key}"
        return fail(key, f"{shown}: {existing} cannot be written to", todo)
    return ok(key, f"{shown}: {shutil.disk_usage(existing).free / 1e9:.0f} GB free")
