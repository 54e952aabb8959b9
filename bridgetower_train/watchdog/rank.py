"""The part of every rank: report, and end with the verdict."""

import json
import os
import platform
import secrets
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from bridgetower_train.display import print_line
from bridgetower_train.distributed import Ranks, local_rank
from bridgetower_train.rendezvous import address_of_rank_0, listen
from bridgetower_train.watchdog.monitor import Monitor
from bridgetower_train.watchdog.verdict import HeartbeatLimits, RankInfo, RankStatus, Verdict, lost, silent

_PACKAGE = Path(__file__).parents[1]


class Watchdog:
    """Watches the ranks while the block runs; does nothing for a single process.

    If a collective fails because another rank is lost or hangs, the block ends with SystemExit(1) once that rank is named. If the
    main thread still waits in a collective then, its process exits with code 1.
    """

    def __init__(self, ranks: Ranks, timeout: float, patience: float = 0.0) -> None:
        """`timeout`: seconds after which a rank that hangs ends the run; `patience`: as many that one may wait for data."""
        self.ranks, self.limits = ranks, HeartbeatLimits(timeout, patience)
        self._status = RankStatus()
        self._judged = threading.Event()
        self._sending = threading.Lock()
        self._monitor: Monitor | None = None

    def at(self, step: int, stage: str) -> None:
        """This rank begins a stage of a step, such as "training". All ranks begin the same stages in the same order."""
        self._status = RankStatus(self._status.stages + 1, step=step, stage=stage)

    def __enter__(self) -> "Watchdog":
        if self.ranks.world_size > 1:
            self._join()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ranks.world_size == 1:
            return
        if error is not None:
            self._status = replace(self._status, error=f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": "))
        if isinstance(error, RuntimeError):  # which failing collectives raise
            self._send(self._report())
            if self._judged.wait(2 * self.limits.grace + 5):
                raise SystemExit(1) from None
        self._status = replace(self._status, left=True)
        self._send(self._report())
        if self._monitor:
            self._monitor.join()
            if self._judged.is_set():  # the last of the others hangs
                raise SystemExit(1) from None

    def _join(self) -> None:
        self._me = RankInfo(self.ranks.rank, platform.node(), os.getpid(), _machine())
        self._main = threading.get_ident()
        server = listen() if self.ranks.is_main else None
        secret = secrets.token_hex()
        gathered = self.ranks.gather_objects((self._me, server and server.getsockname()[1], secret))
        self._first, port, secret = gathered[0]
        if server:
            infos = [info for info, _, _ in gathered]
            self._monitor = Monitor(infos, server, secret, self.limits, lambda: self._status)
            self._monitor.start()
        self._socket = socket.create_connection((address_of_rank_0(), port), self.limits.timeout)
        self._socket.settimeout(self.limits.pulse)
        os.register_at_fork(after_in_child=self._socket.close)  # or loader workers would keep it open
        self._socket.sendall(f"{secret} {self.ranks.rank}\n".encode())
        threading.Thread(target=self._answer, name="watchdog", daemon=True).start()

    def _report(self) -> bytes:
        return replace(self._status, collectives=self.ranks.collectives(), place=self._place()).report()

    def _place(self) -> str:
        frame = sys._current_frames().get(self._main)
        while frame and not frame.f_code.co_filename.startswith(str(_PACKAGE)):
            frame = frame.f_back
        return f"{Path(frame.f_code.co_filename).relative_to(_PACKAGE)}:{frame.f_lineno}" if frame else ""

    def _send(self, report: bytes) -> None:
        with suppress(OSError), self._sending:  # a broken connection is noticed by the reader
            self._socket.sendall(report)

    def _answer(self) -> None:
        """Report at each pulse until a verdict arrives or rank 0 gives no signs of life, which are empty lines."""
        missed, received = 0, b""
        while missed < self.limits.pulses:
            self._send(self._report())
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                missed += 1
                continue
            except OSError:
                data = b""
            if not data and missed > self.limits.pulses / 2:
                break  # rank 0 was stopped, and another rank has killed it
            if not data:
                return None if self._status.left else self._end(lost(self._first, self._status))
            missed = 0
            *lines, received = (received + data).split(b"\n")
            for line in filter(None, lines):
                return self._end(Verdict(**json.loads(line)))
        return self._end(silent(self._first, self._status, self.limits))

    def _end(self, verdict: Verdict) -> None:
        """Print the reason, once on each host, and end this process if its main thread does not."""
        if self.ranks.rank != verdict.rank and (local_rank() == 0 or self.ranks.rank == (0 if verdict.rank else 1)):
            print_line(f"error: {verdict.text}", sys.stderr)
        if verdict.stopped and verdict.machine == self._me.machine:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(verdict.stopped, signal.SIGKILL)
        sys.stdout.flush()
        self._judged.set()
        time.sleep(self.limits.grace)
        os._exit(1)


def _machine() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        return secrets.token_hex()
