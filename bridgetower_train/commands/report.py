"""`bridgetower report run_dir=...`: write a run's report.html."""

from dataclasses import dataclass
from pathlib import Path

from bridgetower_train.files import atomic_write
from bridgetower_train.pages.report import report
from bridgetower_train.pages.run_folder import read_run


@dataclass(frozen=True)
class ReportConfig:
    """Which run, and where to."""

    run_dir: str = "???"
    """Folder of the run."""
    out: str | None = None
    """Where the page is written; null: report.html in the run folder."""


def run(config: ReportConfig) -> None:
    """Write the report; UserError where there is no run."""
    folder = Path(config.run_dir)
    out = Path(config.out) if config.out else folder / "report.html"
    atomic_write(out, report(read_run(folder)))
    print(f"report: {out.resolve()}")
