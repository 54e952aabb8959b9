"""Finds, verifies and reads checkpoints on disk; `training.checkpoints` writes them."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bridgetower_train.files import sha256_file

Log = Callable[[str], None]


def verify(folder: Path) -> str | None:
    """None if every file of a checkpoint matches its manifest, otherwise what is wrong."""
    try:
        listed = json.loads((folder / "manifest.json").read_text())["files"].items()
        files = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in listed}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "manifest.json is missing or damaged"
    for name, (size, _) in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    try:
        with ThreadPoolExecutor() as threads:
            digests = list(threads.map(sha256_file, (folder / name for name in files)))
    except OSError as error:
        return f"it cannot be read ({error})"
    changed = [name for (name, (_, digest)), found in zip(files.items(), digests, strict=True) if found != digest]
    return f"the contents of {changed[0]} have changed" if changed else None


def newest(run_dir: Path, log: Log) -> Path | None:
    """The newest intact checkpoint of a run; logs which ones it skipped, and why. None if there is none."""
    for folder in reversed(step_folders(run_dir)):
        wrong = verify(folder)
        if wrong is None:
            return folder
        log(f"skipping {folder}: {wrong}")
    return None


def step_folders(run_dir: Path) -> list[Path]:
    """The folders of complete checkpoints, oldest first."""
    return sorted((run_dir / "checkpoints").glob("step-" + "[0-9]" * 8))


def read_state(folder: Path) -> dict[str, Any]:
    """The `state.json` of a checkpoint."""
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return state
