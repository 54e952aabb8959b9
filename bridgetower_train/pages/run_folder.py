"""Reads a run folder, in which every part may be missing, empty or truncated."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bridgetower_train.errors import ConfigError
from bridgetower_train.pages.chart import Floats

Json = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A folder below `checkpoints/`."""

    name: str
    step: int
    bytes: int
    fault: str
    """What is wrong with it; empty if it is complete."""
    state: Json


@dataclass(frozen=True)
class RunFolder:
    """The parts of a run."""

    path: Path
    config: Json
    metrics: dict[str, tuple[Floats, Floats]]
    """Name -> (steps, values), ascending. If a step was logged twice, the later line counts."""
    bad_samples: list[Json]
    checkpoints: list[Checkpoint]
    """Oldest first."""
    evaluation: Json
    remarks: list[str] = field(default_factory=list)
    """What could not be read, as sentences."""

    def last(self, name: str) -> float | None:
        """The newest value of a metric."""
        return float(self.metrics[name][1][-1]) if name in self.metrics else None

    def seconds(self, last: float | None = None) -> float:
        """Seconds that the steps up to `last` took; those between two logged ones count as long as the later one."""
        steps, seconds = self.metrics.get("step_s", (np.empty(0), np.empty(0)))
        kept = steps <= (np.inf if last is None else last)
        return float(np.nansum((np.diff(steps, prepend=0.0) * seconds)[kept]))

    @property
    def state(self) -> Json:
        """`state.json` of the newest checkpoint that has one."""
        return next((c.state for c in reversed(self.checkpoints) if c.state), {})


def read_run(path: Path) -> RunFolder:
    """Read a run folder; ConfigError if it does not exist or is not a run's."""
    if not path.is_dir():
        raise ConfigError(f"run_dir={path}: no such folder; give the folder of a run")
    if not any((path / name).exists() for name in ("config.yaml", "metrics.jsonl", "checkpoints")):
        missing = "no config.yaml, metrics.jsonl or checkpoints"
        raise ConfigError(f"run_dir={path}: is not a run folder ({missing}); name one that is")
    path, remarks = path.resolve(), list[str]()
    return RunFolder(
        path=path,
        config=_read_config(path / "config.yaml", remarks),
        metrics=_columns(_lines(path / "metrics.jsonl", remarks)),
        bad_samples=list(_lines(path / "bad_samples.jsonl", remarks, expected=False)),
        checkpoints=_checkpoints(path / "checkpoints", remarks),
        evaluation=_read_object(path / "eval.json", remarks),
        remarks=remarks,
    )


def _read_config(path: Path, remarks: list[str]) -> Json:
    if not path.exists():
        remarks.append("config.yaml is missing.")
        return {}
    try:
        config = yaml.safe_load(path.read_text("utf-8", errors="replace"))
    except yaml.YAMLError as error:
        remarks.append(f"config.yaml cannot be read: {str(error).splitlines()[0]}.")
        return {}
    return config if isinstance(config, dict) else {}


def _read_object(path: Path, remarks: list[str]) -> Json:
    """A JSON object; empty if there is no file, and with a remark if it cannot be read."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text("utf-8", errors="replace"))
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        remarks.append(f"{path.name} cannot be read: it is not a JSON object.")
        return {}
    return value


def _lines(path: Path, remarks: list[str], expected: bool = True) -> Iterator[Json]:
    """The JSON objects of a file of lines; others, such as a truncated last line, are counted in a remark."""
    if not path.exists():
        if expected:
            remarks.append(f"{path.name} is missing.")
        return
    unreadable = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in filter(str.strip, file):
            try:
                value = json.loads(line)
            except json.JSONDecodeError:
                value = None
            if isinstance(value, dict):
                yield value
            else:
                unreadable += 1
    if unreadable:
        lines = "line" if unreadable == 1 else "lines"
        remarks.append(f"{path.name}: {unreadable} {lines} could not be read and left out.")


def _columns(lines: Iterator[Json]) -> dict[str, tuple[Floats, Floats]]:
    columns: dict[str, dict[int, float]] = {}
    for line in lines:
        step = line.get("step")
        if isinstance(step, int):
            for name, value in line.items():
                if isinstance(value, (int, float)):
                    columns.setdefault(name, {})[step] = value
    pairs = {name: np.array(sorted(values.items()), dtype=np.float64) for name, values in columns.items()}
    return {name: (array[:, 0], array[:, 1]) for name, array in pairs.items()}


def _checkpoints(path: Path, remarks: list[str]) -> list[Checkpoint]:
    if not path.is_dir():
        return []
    folders = [p for p in path.iterdir() if p.is_dir() and re.fullmatch(r"step-\d+", p.name)]
    return sorted((_checkpoint(p, remarks) for p in folders), key=lambda c: c.step)


def _checkpoint(folder: Path, remarks: list[str]) -> Checkpoint:
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    state = _read_object(folder / "state.json", remarks)
    return Checkpoint(folder.name, int(folder.name[5:]), size, _fault(folder), state)


def _fault(folder: Path) -> str:
    """What names and sizes show to be wrong; the contents are checked when it is loaded."""
    files = _read_object(folder / "manifest.json", []).get("files")
    if not isinstance(files, dict):
        return "no manifest"
    for name, entry in files.items():
        path, expected = folder / name, entry.get("bytes") if isinstance(entry, dict) else None
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected:
            return f"{name} has {path.stat().st_size} bytes instead of {expected}"
    return ""
