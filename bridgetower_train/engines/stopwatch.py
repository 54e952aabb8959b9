"""How long a rank works by itself, on the clock of its device and without waiting for it."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bridgetower_train.devices import Device

_OPEN = 64
"""Spans whose ends need not have been reached: a device has a limited number of events, and no host is so far ahead of it."""


class Stopwatch:
    """Adds up the spans in which no other rank is waited for."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        """Start from zero."""
        self._spans: deque[tuple[Any, Any]] = deque()
        self._seconds = 0.0

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A span."""
        began = self.device.moment()
        yield
        self._spans.append((began, self.device.moment()))
        if len(self._spans) > _OPEN:
            self._seconds += self.device.seconds(*self._spans.popleft())

    def seconds(self) -> float:
        """Of all spans since the restart; to be read once the device has done them."""
        return self._seconds + sum(self.device.seconds(*span) for span in self._spans)
