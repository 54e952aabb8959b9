"""A step to come, and what becomes of it."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from bridgetower_train.display import print_line
from bridgetower_train.errors import ConfigError
from bridgetower_train.evidence.children import StepError
from bridgetower_train.evidence.facts import without_machine
from bridgetower_train.evidence.report import FAILED, OK, SKIPPED, Step, as_lines
from bridgetower_train.files import own_folder


class Found(NamedTuple):
    """What a step found: whether it is as it should be, in words, in figures."""

    good: bool
    detail: str
    figures: Mapping[str, float] = MappingProxyType({})


class SkipError(Exception):
    """Why a step has nothing to do here, and what would change that."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.remedy = remedy


@dataclass(frozen=True)
class Planned:
    """A step to come."""

    name: str
    work: Callable[[float, Path], Found]
    """Given its limit in seconds and the file of its log."""
    remedy: str


def take_all(planned: Iterable[Planned], limit: float, out: Path) -> list[Step]:
    """Take the steps in turn, and print two lines for each; logs go to `out`/logs. ConfigError where `out` cannot be a folder."""
    steps: list[Step] = []
    try:
        own_folder(out)
        own_folder(out / "logs")
    except OSError as error:
        raise ConfigError(f"out={out}: cannot be a folder ({error.strerror}); choose another") from None
    for number, step in enumerate(planned, 1):
        print_line(f"{number:3}     {step.name}")
        name = "".join(letter if letter.isalnum() else "-" for letter in step.name)
        steps.append(take(step, limit, out / "logs" / f"{number:02}-{name}.txt"))
        for line in as_lines(steps[-1]):
            print_line(line)
    return steps


def take(planned: Planned, limit: float, log: Path) -> Step:
    """Take a step: whatever happens in its process is its verdict."""
    began = time.perf_counter()
    figures: dict[str, float] = {}
    remedy = ""
    try:
        found = planned.work(limit, log)
        verdict, detail, figures = OK if found.good else FAILED, found.detail, dict(found.figures)
    except SkipError as reason:
        verdict, detail, remedy = SKIPPED, str(reason), reason.remedy
    except StepError as error:
        verdict, detail = FAILED, str(error)
    if log.exists():
        log.write_text(without_machine(log.read_text(errors="replace")))
    remedy = planned.remedy if verdict == FAILED else remedy
    return Step(planned.name, verdict, round(time.perf_counter() - began, 2), without_machine(detail), remedy, figures)
