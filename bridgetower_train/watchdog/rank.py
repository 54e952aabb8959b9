"""The side of every rank: answer pulses, and end with the verdict."""

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
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from bridgetower_train.distributed import Ranks, local_rank
from bridgetower_train.watchdog.monitor import Monitor, listen
from bridgetower_train.watchdog.verdict import HeartbeatLimits, RankInfo, RankStatus, Verdict, lost, silent

_PACKAGE = Path(__file__).parents[1]


class Watchdog:
    """Watches the ranks while the block runs; does nothing for one process.

    Where a collective fails because another rank is lost or hangs, the block ends in SystemExit(1) once that rank was named.
    A main thread that still waits in a collective then is not asked: its process ends with code 1.
    """

    def __init__(self, ranks: Ranks, timeout: float) -> None:
        """`timeout`: seconds within which a rank that hangs ends the run."""
        self.ranks, self.limits = ranks, HeartbeatLimits(timeout)
        self._doing = RankStatus()
        self._judged = threading.Event()
        self._sending = threading.Lock()
        self._monitor: Monitor | None = None

    def at(self, step: int, stage: str) -> None:
        """This rank begins a stage of a step, say "training". All ranks do so in the same order."""
        self._doing = RankStatus(self._doing.stages + 1, step, stage)

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
            self._doing = replace(self._doing, error=f"{type(error).__name__}: {error}".splitlines()[0])
        if isinstance(error, RuntimeError):  # as failing collectives raise it
            self._send(self._report())
            if self._judged.wait(2 * self.limits.pulse + 5):
                raise SystemExit(1) from None
        self._doing = replace(self._doing, left=True)
        self._send(self._report())
        if self._monitor:
            self._monitor.join()

    def _join(self) -> None:
        self._me = RankInfo(self.ranks.rank, platform.node(), os.getpid(), _machine())
        self._main = threading.get_ident()
        server = listen() if self.ranks.is_main else None
        secret = secrets.token_hex()
        told = self.ranks.gather_objects((self._me, server and server.getsockname()[1], secret))
        self._first, port, secret = told[0]
        if server:
            self._monitor = Monitor([person for person, _, _ in told], server, secret, self.limits, lambda: self._doing)
            self._monitor.start()
        self._socket = socket.create_connection((os.environ["MASTER_ADDR"], port), self.limits.timeout)
        self._socket.settimeout(self.limits.pulse)
        os.register_at_fork(
            after_in_child=self._socket.close
        )  # or loader workers keep it open when this process is gone
        self._socket.sendall(f"{secret} {self.ranks.rank}\n".encode())
        threading.Thread(target=self._answer, name="watch", daemon=True).start()

    def _report(self) -> dict[str, Any]:
        frame = sys._current_frames().get(self._main)
        while frame and not frame.f_code.co_filename.startswith(str(_PACKAGE)):
            frame = frame.f_back
        place = f"{Path(frame.f_code.co_filename).relative_to(_PACKAGE)}:{frame.f_lineno}" if frame else ""
        return asdict(replace(self._doing, place=place))

    def _send(self, message: dict[str, Any]) -> None:
        with suppress(OSError), self._sending:  # a broken connection is met where it is read
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _answer(self) -> None:
        """Answer pulses, which are empty lines, until a verdict comes, or until rank 0 has none to give any more."""
        missed, received = 0, b""
        while missed < self.limits.pulses:
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                missed += 1
                continue
            except OSError:
                data = b""
            if not data and missed > self.limits.pulses / 2:
                break  # another rank was quicker to find it stopped, and has killed it
            if not data:
                return None if self._doing.left else self._end(lost(self._first, self._doing))
            missed = 0
            *lines, received = (received + data).split(b"\n")
            for line in filter(None, lines):
                return self._end(Verdict(**json.loads(line)))
            if lines:
                self._send(self._report())
        return self._end(silent(self._first, self._doing, self.limits))

    def _end(self, verdict: Verdict) -> None:
        """Say why, once on each host, and end this process where its main thread does not."""
        if self.ranks.rank != verdict.rank and (local_rank() == 0 or self.ranks.rank == (0 if verdict.rank else 1)):
            print(f"error: {verdict.text}", file=sys.stderr, flush=True)
        if verdict.stopped and verdict.machine == self._me.machine:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(verdict.stopped, signal.SIGKILL)
        sys.stdout.flush()
        self._judged.set()
        time.sleep(self.limits.pulse)
        os._exit(1)


def _machine() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        return secrets.token_hex()
