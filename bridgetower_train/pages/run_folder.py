"""Reads a run folder, in which every part may be missing, empty or truncated."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bridgetower_train.display import plural
from bridgetower_train.errors import ConfigError, FileError
from bridgetower_train.evaluation.protocol import evaluations_in
from bridgetower_train.foreign import MAX_JSON, MAX_YAML, parse_json, parse_yaml, read_bytes, read_lines
from bridgetower_train.pages.chart import Floats
from bridgetower_train.pages.numbers import is_number
from bridgetower_train.weights.checkpoint import fault, step_of

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
    starts: list[Json]
    """Oldest first; none of versions up to 0.1."""
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

    @property
    def best(self) -> Json:
        """What the newest checkpoint knows of the best one; empty if that is nothing."""
        best = self.state.get("best")
        return best if isinstance(best, dict) else {}

    def until(self, step: int) -> "RunFolder":
        """The run as it was at this step, with the evaluations of that checkpoint alone."""
        upto = {name: (steps <= step, steps, values) for name, (steps, values) in self.metrics.items()}
        evaluations = {name: e for name, e in evaluations_in(self.evaluation).items() if e.get("step") == step}
        return replace(
            self,
            metrics={name: (steps[kept], values[kept]) for name, (kept, steps, values) in upto.items() if kept.any()},
            bad_samples=[sample for sample in self.bad_samples if sample.get("step", 0) <= step],
            checkpoints=[checkpoint for checkpoint in self.checkpoints if checkpoint.step <= step],
            evaluation={"evaluations": evaluations},
            starts=[start for start in self.starts if start.get("step", 0) < step],
        )


def changes(start: Json) -> list[tuple[str, Any, Any]]:
    """(key, what it was, what it became) of a line of `starts.jsonl`; what is no such entry is left out."""
    changed = start.get("changed")
    entries = changed.items() if isinstance(changed, dict) else ()
    return [(key, *pair) for key, pair in entries if isinstance(pair, list) and len(pair) == 2]


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
        bad_samples=list(_lines(path / "bad_samples.jsonl", remarks, metrics=False)),
        checkpoints=_checkpoints(path / "checkpoints", remarks),
        evaluation=_read_object(path, "eval.json", remarks),
        starts=list(_lines(path / "starts.jsonl", remarks, metrics=False)),
        remarks=remarks,
    )


def _read_config(path: Path, remarks: list[str]) -> Json:
    try:
        return parse_yaml(read_bytes(path, MAX_YAML), path.name)
    except FileNotFoundError:
        remarks.append(f"{path.name} is missing.")
    except (OSError, FileError) as error:
        remarks.append(f"{error}.")
    return {}


def _read_object(folder: Path, name: str, remarks: list[str]) -> Json:
    """A JSON object; empty if there is no file, and with a remark if it cannot be read."""
    try:
        return parse_json(read_bytes(folder / name, MAX_JSON), Json, name)
    except FileNotFoundError:
        return {}
    except (OSError, FileError) as error:
        remarks.append(f"{error}.")
        return {}


def _lines(path: Path, remarks: list[str], metrics: bool = True) -> Iterator[Json]:
    """The JSON objects of a file of lines; others, such as a truncated last line, are counted in a remark.

    `metrics`: every run has the file, and its lines have a step.
    """
    unreadable = 0
    try:
        for line in filter(bytes.strip, read_lines(path)):
            try:
                value = parse_json(line, Json, path.name)
                step = value.get("step", None if metrics else 0)
                if not (
                    isinstance(step, int)
                    and step >= 0
                    and all(is_number(v) for v in value.values() if isinstance(v, int))
                ):
                    raise FileError("not what a run writes")
            except FileError:
                unreadable += 1
            else:
                yield value
    except FileNotFoundError:
        if metrics:
            remarks.append(f"{path.name} is missing.")
    except (OSError, FileError) as error:
        remarks.append(f"{error}.")
    if unreadable:
        remarks.append(f"{path.name}: {plural(unreadable, 'line')} could not be read and left out.")


def _columns(lines: Iterator[Json]) -> dict[str, tuple[Floats, Floats]]:
    columns: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, value in line.items():
            if isinstance(value, (int, float)):
                columns.setdefault(name, {})[line["step"]] = value
    pairs = {name: np.array(sorted(values.items()), dtype=np.float64) for name, values in columns.items()}
    return {name: (array[:, 0], array[:, 1]) for name, array in pairs.items()}


def _checkpoints(path: Path, remarks: list[str]) -> list[Checkpoint]:
    if not path.is_dir():
        return []
    folders = [p for p in path.iterdir() if p.is_dir() and re.fullmatch(r"step-\d+", p.name)]
    return sorted((_checkpoint(p, remarks) for p in folders), key=lambda c: c.step)


def _checkpoint(folder: Path, remarks: list[str]) -> Checkpoint:
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    state = _read_object(folder.parent, f"{folder.name}/state.json", remarks)
    return Checkpoint(folder.name, step_of(folder), size, fault(folder) or "", state)
