"""Signals that ask this process to end, for what has something to finish first."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, TypeVar

S = TypeVar("S", bound="Signals")

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""SIGHUP is that of a terminal that closes. SIGUSR1 is for mpirun: it forwards it, and kills the ranks upon the others."""

_PAUSE = 5.0  # seconds


class Signals:
    """While the block runs, the first signal that asks this process to end calls `act` with its number, and nothing else.

    Signals that follow within seconds are the same one: of a launcher that passes on what every process has received already,
    or of a key that is held. A SIGINT after a pause acts as it did before the block, and so do all others once it has ended.
    A SIGHUP that is ignored (nohup) stays so. Only the main thread can handle signals; in another the block does nothing.
    """

    def __init__(self, act: Callable[[int], object], signals: tuple[signal.Signals, ...] = ASKING) -> None:
        self.number: int | None = None
        """The signal that has arrived."""
        self._act, self._signals = act, signals
        self._before: dict[int, Any] = {}
        self._ended = False

    def __enter__(self: S) -> S:
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        for number, handler in self._before.items():
            if self.number is None and signal.getsignal(number) == self._receive:  # otherwise more may still come
                signal.signal(number, handler or signal.SIG_DFL)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is None:
            self.number, self._last = number, now
            self._act(number)
            return
        again, self._last = now - self._last > _PAUSE, now
        if again and (self._ended or number == signal.SIGINT):
            before = self._before[number]
            if callable(before):
                before(number, frame)
            else:
                signal.signal(number, before or signal.SIG_DFL)
                signal.raise_signal(number)
