"""Finds, verifies and reads checkpoints on disk; `training.checkpoints` writes them."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridgetower_train.errors import ConfigError, FileError, UserError
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
class Best:
    """The best validation of a run so far."""

    metric: str
    value: float
    step: int
    """Whose checkpoint is kept."""
    missed: int = 0
    """Validations since."""
    of: dict[str, Any] = field(default_factory=dict)
    """The keys on which the value depends."""

    def __post_init__(self) -> None:
        if not (0 <= self.step < _MOST and 0 <= self.missed < _MOST and math.isfinite(self.value)):
            raise ValueError("its best is none")


@dataclass(frozen=True)
class _State:
    """What is read of `state.json`; there is more in it for people."""

    step: int
    identity: dict[str, Any]
    skipped: int = 0
    streak: int = 0
    spikes: int = 0
    running_norm: float = 0.0
    norms: int = 0
    bad_samples: int = 0
    metrics_lines: int = 0
    world_size: int = 1
    device: str = "unknown"
    versions: dict[str, str] = field(default_factory=dict)
    corpora: dict[str, list[str]] = field(default_factory=dict)
    best: Best | None = None
    unvalidated: bool = False

    def __post_init__(self) -> None:
        counts = (self.step, self.skipped, self.streak, self.spikes, self.norms, self.bad_samples, self.metrics_lines)
        if not all(0 <= count < _MOST for count in (*counts, self.world_size)) or not 0 <= self.running_norm < math.inf:
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
    """The newest intact checkpoint of a run; logs which ones it skipped, and why. None if there is none.

    The run may be in progress: it has saved again where the folder was removed that is being verified.
    """
    tried = set[Path]()
    while left := [folder for folder in step_folders(run_dir) if folder not in tried]:
        folder = left[-1]
        tried.add(folder)
        wrong = verify(folder)
        if wrong is None:
            return folder
        if folder.exists():
            log(f"skipping {folder}: {wrong}")
    return None


def chosen(run_dir: Path, step: str, log: Log) -> Path:
    """The intact checkpoint that a key `step` names: `newest`, `best` (see `checkpoint.best`), or a number of steps.

    ConfigError where there is no such step; UserError where it is not intact, or there is none yet.
    """
    if step == "newest":
        folder = newest(run_dir, log)
        if folder is None:
            raise UserError(f"{run_dir}: has no complete checkpoint yet; wait for its first")
        return folder
    if not (step == "best" or step.isdecimal()):
        raise ConfigError(f"step={step}: must be a number, newest or best")
    there = {step_of(folder): folder for folder in step_folders(run_dir)}
    steps = ", ".join(map(str, there)) or "none"
    number = _best_step(run_dir) if step == "best" else int(step)
    if number is None:
        raise ConfigError(f"step=best: the run has kept no best checkpoint (checkpoint.best); there are {steps}")
    if number not in there:
        which = f" of step {number}" if step == "best" else ""
        raise ConfigError(f"step={step}: no such checkpoint{which}; there are {steps}")
    wrong = verify(there[number])
    if wrong is not None:
        raise UserError(f"{there[number]}: {wrong}; choose another step")
    return there[number]


def _best_step(run_dir: Path) -> int | None:
    """As the newest whole checkpoint knows it."""
    for folder in reversed(step_folders(run_dir)):
        with suppress(FileNotFoundError):  # the run has removed it
            if fault(folder) is None:
                best: Best | None = read_state(folder)["best"]
                return best.step if best else None
    return None


def folder_name(step: int) -> str:
    """Of the checkpoint of a step."""
    return f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """The step of a checkpoint's folder."""
    return int(folder.name[5:])


def step_folders(run_dir: Path) -> list[Path]:
    """The folders of complete checkpoints, oldest first."""
    return sorted((run_dir / "checkpoints").glob("step-" + "[0-9]" * 8))


def read_state(folder: Path) -> dict[str, Any]:
    """The `state.json` of a checkpoint, as far as it is used: `step`, `identity`, `skipped`, `streak`, `spikes`,
    `running_norm`, `norms`, `bad_samples`, `metrics_lines`, `world_size`, `device`, `versions`, `corpora` (name -> its
    fingerprints), `best` (a Best, or None) and `unvalidated` (whether a signal ended the validation of this step).

    FileError if that has another shape; OSError if it cannot be read.
    """
    return vars(read_json(folder / "state.json", _State, _LONGEST))


def _read_manifest(folder: Path) -> dict[str, _Sealed]:
    return read_json(folder / "manifest.json", _Manifest, _LONGEST).files
