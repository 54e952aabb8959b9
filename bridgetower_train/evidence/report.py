"""A report: what was seen on some hardware, step by step. It can be sent to others, and theirs can be read."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bridgetower_train.display import printable, without_secrets
from bridgetower_train.errors import ConfigError, FileError
from bridgetower_train.files import atomic_write
from bridgetower_train.foreign import read_json

FORMAT = 1
OK, FAILED, SKIPPED = "ok", "failed", "skipped"
VERDICTS = (OK, FAILED, SKIPPED)
REPORT, PAGE = "report.json", "report.html"
_LONGEST = 4 << 20  # bytes


@dataclass(frozen=True)
class Step:
    """What one step found."""

    name: str
    verdict: str
    """One of VERDICTS."""
    seconds: float
    detail: str
    remedy: str = ""
    """What to do about a failure; empty otherwise."""
    figures: dict[str, float] = field(default_factory=dict)
    """What can be compared with the same step of another report."""


@dataclass(frozen=True)
class Report:
    """Steps with what must be known of them; without secrets, host names and addresses."""

    format: int
    kind: str
    """`first run`, or `published weights`."""
    project: str
    """Version of this project."""
    commit: str | None
    """Of the checkout that ran; None where it was none."""
    date: str
    device: dict[str, str]
    """`name`, `description`, `cards`, `software`."""
    versions: dict[str, str]
    environment: dict[str, str]
    """Variables that change what a device does."""
    steps: list[Step]

    @property
    def passed(self) -> bool:
        """Whether no step failed."""
        return all(step.verdict != FAILED for step in self.steps)

    @property
    def counts(self) -> str:
        """Steps by verdict, for people."""
        verdicts = [step.verdict for step in self.steps]
        return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in VERDICTS)


def write_report(folder: Path, report: Report, page: str) -> None:
    """Write REPORT and PAGE into `folder`."""
    atomic_write(folder / REPORT, json.dumps(dataclasses.asdict(report), indent=1) + "\n")
    atomic_write(folder / PAGE, page)


def read_report(given: str | Path, named: str) -> Report:
    """The report in a folder or file, which others may have written; ConfigError beginning with `named` where there is none."""
    path = Path(given)
    try:
        report = read_json(path / REPORT if path.is_dir() else path, Report, _LONGEST)
        if report.format != FORMAT:
            raise FileError(
                f"{path}: has format {report.format}, and this version reads {FORMAT}; use the version that wrote it"
            )
        if wrong := sorted({step.verdict for step in report.steps} - set(VERDICTS)):
            raise FileError(f"{path}: has a step with the verdict {wrong[0]!r:.40}; restore the file")
    except (OSError, FileError) as error:
        raise ConfigError(f"{named}: {error}") from None
    return report


def as_lines(step: Step) -> Iterator[str]:
    """A step as text."""
    yield f"{'':8}{step.verdict}, {step.seconds:.1f} s: {shown(step.detail)}"
    if step.remedy:
        yield f"{'':8}-> {shown(step.remedy)}"


def shown(text: str) -> str:
    """Text of a report in one line."""
    return printable(without_secrets(" ".join(text.split())))
