"""`bridgetower doctor`: check that this machine fits a run, and print what to do about each problem.

`--first-run` takes the first steps on it, and writes a report; `compare` shows two such reports side by side.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bridgetower_train.config import TrainConfig, at_least, one_of
from bridgetower_train.devices.checks import check_device
from bridgetower_train.display import print_line
from bridgetower_train.doctor.data import check_data
from bridgetower_train.doctor.folders import check_folders
from bridgetower_train.doctor.machine import check_machine
from bridgetower_train.doctor.software import check_software
from bridgetower_train.doctor.start import check_start
from bridgetower_train.errors import ConfigError
from bridgetower_train.evidence.first_run import first_run
from bridgetower_train.evidence.report import PAGE, read_report, write_report
from bridgetower_train.files import atomic_write, own_folder
from bridgetower_train.findings import FAIL, Finding, as_json, as_text, counts
from bridgetower_train.pages.evidence import COLUMNS, compare_page, compared_rows, report_page
from bridgetower_train.pages.markdown import table

CHECKS: dict[str, Callable[[TrainConfig], Iterable[Finding]]] = {
    "software": check_software,
    "device": check_device,
    "machine": check_machine,
    "folders": check_folders,
    "data": check_data,
    "start": check_start,
}
"""Theme -> its checks, in the order of the report."""


@dataclass(frozen=True)
class DoctorConfig(TrainConfig):
    """The run to start here, and what to check."""

    checks: list[str] = field(default_factory=list)
    """Themes to check: software, device, machine, folders, data, start; empty: all."""
    json: bool = False
    """Print JSON; also as the flag `--json`."""
    first_run: bool = False
    """Take the first steps on this node with the model, losses, engine and device of the run, on images of their own, and write
    report.json and report.html into `out`; also as the flag `--first-run`. Nothing else must use the cards meanwhile."""
    out: str | None = None
    """Folder for what `first_run` and `compare` write."""
    cards: int | None = None
    """Cards that train together in the first run; null: all of the node, on the CPU two processes."""
    limit: float = 900.0
    """Seconds that a step of the first run may take."""
    compare: str | None = None
    """Two folders with reports, separated by a comma: show them side by side, and write compare.html into `out`, if given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for theme in self.checks:
            one_of("checks", theme, tuple(CHECKS))
        at_least("limit", self.limit, 1)
        at_least("cards", self.cards or 1, 1)
        if self.first_run and not self.out:
            raise ConfigError("out is required with --first-run: name a folder for the report, as out=first_run")
        if self.compare is not None and (self.first_run or self.compare.count(",") != 1):
            raise ConfigError(f"compare={self.compare}: must be two reports, by themselves: compare=FOLDER,FOLDER")


def run(config: DoctorConfig) -> int:
    """Print the report; 1 if a check or a step fails."""
    if config.compare is not None:
        return compare(config.compare, config.out)
    if config.first_run:
        return take_first_steps(config, Path(config.out or ""))
    themes = {name: list(check(config)) for name, check in CHECKS.items() if not config.checks or name in config.checks}
    print(as_json(themes) if config.json else as_text(themes))
    return 1 if counts(themes)[FAIL] else 0


def take_first_steps(config: DoctorConfig, out: Path) -> int:
    """The first run, and its report."""
    report = first_run(config, out, config.cards, config.limit)
    write_report(out, report, report_page(report))
    print_line(f"{report.counts}: {(out / PAGE).resolve()}; the folder {out} can be sent as it is")
    return 0 if report.passed else 1


def compare(given: str, out: str | None) -> int:
    """Print two reports side by side."""
    a, b = (read_report(path.strip(), f"compare={given}") for path in given.split(","))
    print(table(COLUMNS, compared_rows(a, b), left=4), end="")
    if out:
        own_folder(Path(out))
        atomic_write(Path(out) / "compare.html", compare_page(a, b))
        print_line(f"compare: {(Path(out) / 'compare.html').resolve()}")
    return 0
