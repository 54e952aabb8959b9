"""First runs as a user starts them, on the tiny model."""

from collections.abc import Callable
from pathlib import Path

from bridgetower_train.evidence.report import Report, read_report
from tests.tiny import TINY

OPTIONS = [option for option in TINY if not option.startswith(("device", "log_every"))]


def take(out: Path, *options: str, run: Callable[[list[str]], str]) -> Report:
    """The report of a first run into `out`."""
    run(
        [
            "-m",
            "bridgetower_train",
            "doctor",
            "--first-run",
            f"out={out}",
            *OPTIONS,
            "micro_batch=8",
            "data.workers=1",
            *options,
        ]
    )
    return read_report(out, "out")


def check(report: Report, steps: list[str], skipped: set[str]) -> None:
    """Each step was taken, and found what it should."""
    assert [step.name for step in report.steps] == steps
    verdicts = {step.name: (step.verdict, step.detail) for step in report.steps}
    assert {name for name, (verdict, _) in verdicts.items() if verdict == "failed"} == set(), verdicts
    assert {name for name, (verdict, _) in verdicts.items() if verdict == "skipped"} == skipped
