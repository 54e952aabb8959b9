"""`bridgetower doctor`: check that this machine fits a run, and print what to do about each problem."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from bridgetower_train.config import TrainConfig, one_of
from bridgetower_train.devices.checks import check_device
from bridgetower_train.doctor.data import check_data
from bridgetower_train.doctor.folders import check_folders
from bridgetower_train.doctor.machine import check_machine
from bridgetower_train.doctor.software import check_software
from bridgetower_train.doctor.start import check_start
from bridgetower_train.findings import FAIL, Finding, as_json, as_text, counts

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

    def __post_init__(self) -> None:
        super().__post_init__()
        for theme in self.checks:
            one_of("checks", theme, tuple(CHECKS))


def run(config: DoctorConfig) -> int:
    """Print the report; 1 if a check fails."""
    themes = {name: list(check(config)) for name, check in CHECKS.items() if not config.checks or name in config.checks}
    print(as_json(themes) if config.json else as_text(themes))
    return 1 if counts(themes)[FAIL] else 0
