"""Finds, verifies and reads checkpoints on disk; `training.checkpoints` writes them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridgetower_train.errors import FileError
from bridgetower_train.files import sha256_file
from bridgetower_train.foreign import inside, read_json

Log = Callable[[str], None]

_LONGEST = 1 << 20  # bytes of state.json and manifest.json, which have a few thousand
_MOST = 1 << 53


@dataclass(frozen=True)
class _Sealed:
    """A file in a manifest."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class _Manifest:
    files: dict[str, _Sealed]

    def __post_init__(self) -> None:
        if not {"state.json", "model.safetensors"} <= self.files.keys():
            raise ValueError("it lists no state.json or no model.safetensors")


@dataclass(frozen=True)
class _State:
    """What is read of `state.json`; there is more in it for people."""

    step: int
    identity: dict[str, Any]
    skipped: int = 0
    bad_samples: int = 0
    world_size: int = 1
    device: str = "unknown"
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(0 <= count < _MOST for count in (self.step, self.skipped, self.bad_samples, self.world_size)):
            raise ValueError("it counts what cannot be")


def fault(folder: Path) -> str | None:
    """What the names and sizes of a checkpoint's files show to be wrong; None if nothing. The contents are not read."""
    try:
        for name, sealed in _read_manifest(folder).items():
            path = inside(folder, name, follow_links=True)
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != sealed.bytes:
                return f"{name} has {path.stat().st_size} bytes instead of {sealed.bytes}"
    except (OSError, FileError):
        return "manifest.json is missing or damaged"
    return None


def verify(folder: Path) -> str | None:
    """None if every file of a checkpoint matches its manifest, otherwise what is wrong."""
    wrong = fault(folder)
    if wrong is not None:
        return wrong
    try:
        files = _read_manifest(folder)
        with ThreadPoolExecutor() as threads:
            digests = list(threads.map(sha256_file, (folder / name for name in files)))
    except (OSError, FileError) as error:
        return f"it cannot be read ({error})"
    changed = [name for (name, sealed), found in zip(files.items(), digests, strict=True) if found != sealed.sha256]
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
    """The `state.json` of a checkpoint, as far as it is used: `step`, `identity`, `skipped`, `bad_samples`, `world_size`,
    `device` and `versions`. FileError if that has another shape; OSError if it cannot be read.
    """
    return vars(read_json(folder / "state.json", _State, _LONGEST))


def _read_manifest(folder: Path) -> dict[str, _Sealed]:
    return read_json(folder / "manifest.json", _Manifest, _LONGEST).files
