"""A trace of some steps with torch's profiler."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import profile

from bridgetower_train.config import ProfileConfig
from bridgetower_train.devices import Device

ROWS = 60
"""Rows of the table of operations."""


class Profile:
    """Writes `trace.json.gz` (for Perfetto or chrome://tracing) and `operations.txt` of the configured steps into `folder`."""

    def __init__(self, config: ProfileConfig, device: Device, folder: Path) -> None:
        self.device, self.folder = device, folder
        self.first, self.last = config.span() if config.steps else (0, 0)
        self._profile: profile | None = None

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Wraps a step: starts the profiler before the first one, and writes its results after the last one."""
        if number == self.first:
            self.device.synchronize()
            self._profile = profile(activities=self.device.activities, record_shapes=True)
            self._profile.start()
        yield
        if self._profile is not None and number == self.last:
            self.device.synchronize()
            self._profile.stop()
            self._write(self._profile)
            self._profile = None

    def _write(self, recorded: profile) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        recorded.export_chrome_trace(str(self.folder / "trace.json.gz"))
        costliest = "self_cpu_time_total" if len(self.device.activities) == 1 else "self_device_time_total"
        table = recorded.key_averages().table(sort_by=costliest, row_limit=ROWS)
        (self.folder / "operations.txt").write_text(f"steps {self.first} to {self.last}\n{table}\n")
