"""`bridgetower bench compare`: what became slower or larger between two runs of the same benchmark."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridgetower_train.errors import ConfigError, FileError
from bridgetower_train.foreign import read_json

NEITHER = (
    "gflop_per_pair", "parameters", "jpeg_kb", "checkpoint_gb", "copied_gb", "steps_beside", "planned_of_measured",
)  # fmt: skip
"""Figures that are better neither larger nor smaller."""
LESS = ("_s", "_gb", "_mb", "over_bare", "_of_write", "operators")
"""Ends of the names of those that are better smaller, as `s` is; all others are better larger."""


@dataclass(frozen=True)
class BenchCompareConfig:
    """`bridgetower bench compare`; exit code 1 where something became worse."""

    base: str = "???"
    """JSON file that an earlier `bridgetower bench ... out=FILE` wrote."""
    new: str = "???"
    """The same of a later one."""
    tolerance: float = 0.05
    """Share of a figure by which it may become worse."""

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise ConfigError(f"tolerance={self.tolerance}: must be at least 0 and below 1")


@dataclass(frozen=True)
class Record:
    """What `bench` writes."""

    bench: str
    machine: dict[str, Any]
    config: dict[str, Any]
    figures: dict[str, Any]


def run(config: BenchCompareConfig) -> int:
    """Print each figure of both, and which are worse.

    ConfigError where the files are of different benchmarks or have no figure in common.
    """
    base, new = _read("base", config.base), _read("new", config.new)
    if base.bench != new.bench:
        raise ConfigError(f"new={config.new}: is of bench {new.bench}, and base is of bench {base.bench}")
    for key in ("machine", "config"):
        before, after = dict(_leaves(getattr(base, key))), dict(_leaves(getattr(new, key)))
        for name in before | after:
            if before.get(name) != after.get(name) and name != "out":
                print(f"differs: {key} {name}: {before.get(name)}, then {after.get(name)}")
    before, after = ({n: v for n, v in _leaves(of.figures) if _is_number(v)} for of in (base, new))
    common = [name for name in before if name in after]
    if not common:
        raise ConfigError(f"new={config.new}: has no figure of base={config.base}")
    regressions = 0
    for name in common:
        change = after[name] / before[name] - 1 if before[name] else 0.0
        worse = _is_worse(name.split()[-1], change, config.tolerance)
        regressions += worse
        print(f"{name:32}{before[name]:>12.4g}{after[name]:>12.4g}{change:>+9.1%}{'  worse' if worse else ''}")
    print(f"{regressions} of {len(common)} figures are worse by more than {config.tolerance:.0%}")
    return int(regressions > 0)


def _read(key: str, path: str) -> Record:
    try:
        return read_json(Path(path), Record)
    except (OSError, FileError) as error:
        raise ConfigError(f"{key}={path}: is no file that `bridgetower bench ... out=FILE` wrote: {error}") from None


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(names joined by blanks, value) of all that is no mapping."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_worse(name: str, change: float, tolerance: float) -> bool:
    if name in NEITHER:
        return False
    less = name == "s" or (name.endswith(LESS) and not name.endswith("_per_s"))
    return change > tolerance if less else change < -tolerance
