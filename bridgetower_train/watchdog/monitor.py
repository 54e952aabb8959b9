"""The part of rank 0: judge what the ranks report.

Made for thousands of ranks: it looks a few times per pulse at all that has arrived, and reads no more of it than what tells that
a rank goes on.
"""

import json
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial

from bridgetower_train.watchdog.verdict import (
    LEFT,
    READING,
    HeartbeatLimits,
    RankInfo,
    RankStatus,
    Verdict,
    failed,
    hanging,
    lost,
    silent,
)

_FOR_ALL_TO_FAIL = 1.0  # seconds: an error of all ranks needs no verdict
_GREETING = 10.0  # seconds within which a connection must name itself,
_LONGEST_GREETING = 256  # and in so many bytes
_STRANGERS = 64  # connections, besides one of each rank, that have not done so yet
_LOOK_EVERY = 0.5  # seconds, or a tenth of a pulse


@dataclass
class Member:
    """What the monitor knows about a rank."""

    info: RankInfo
    unanswered: int = 0
    """Pulses since its last report,"""
    still: int = 0
    """and pulses since its main thread has gone on."""
    left: bool = False
    connection: socket.socket | None = None
    received: bytes = b""
    """The beginning of its next report."""
    progress: bytes = b""
    report: bytes = b""

    @property
    def status(self) -> RankStatus:
        """What it has reported."""
        return RankStatus(**json.loads(self.report)) if self.report else RankStatus()


class Monitor(threading.Thread):
    """Ends with a verdict, or when all ranks have left."""

    def __init__(
        self,
        infos: list[RankInfo],
        server: socket.socket,
        secret: str,
        limits: HeartbeatLimits,
        own: Callable[[], RankStatus],
    ) -> None:
        """Ranks connect to `server`, which closes once all have, with the `secret`; `own` returns this process's status."""
        super().__init__(name="monitor", daemon=True)
        self._members = [Member(info) for info in infos]
        self._strangers: dict[socket.socket, tuple[float, bytes]] = {}
        self._server, self._secret, self._limits, self._own = server, secret.encode(), limits, own
        self._between = min(limits.pulse / 10, _LOOK_EVERY)
        self._pulses = 0
        self._decided = False
        self._verdict: Verdict | None = None
        self._failed: tuple[float, Verdict] | None = None
        self._selector = selectors.DefaultSelector()
        server.setblocking(False)
        self._selector.register(server, selectors.EVENT_READ, self._admit)
        self._open = True
        os.register_at_fork(after_in_child=self._close_all)  # a loader worker would keep connections open

    def run(self) -> None:
        due = 0.0
        while not self._decided:
            self._look()
            now = time.monotonic()
            if self._failed and now >= self._failed[0]:
                self._decide(self._failed[1])
            if now >= due:  # however late: a job that was suspended as a whole continues
                due = now + self._limits.pulse
                self._pulse()
        if self._verdict:
            for member in reversed(self._members):  # rank 0 last: its process, and this thread, end with the verdict
                self._send(member, json.dumps(asdict(self._verdict)).encode() + b"\n")
            time.sleep(self._limits.grace)  # during which this process ends
        self._close_all()

    def _look(self) -> None:
        """Take what has arrived. Once all ranks have joined it is gathered first: a look costs more than what there is to see."""
        if not self._open:
            time.sleep(self._between)
        for key, _ in self._selector.select(self._between if self._open else 0):
            key.data(key.fileobj)
        while self._strangers and next(iter(self._strangers.values()))[0] < time.monotonic():
            self._turn_away(next(iter(self._strangers)))

    def _pulse(self) -> None:
        self._judge()
        self._pulses += 1
        for number, member in enumerate(self._members):
            if not member.left:
                member.unanswered += 1
                member.still += 1
            if (number + self._pulses) % self._limits.sign_every == 0:
                self._send(member, b"\n")

    def _admit(self, server: socket.socket) -> None:
        try:
            stranger, _ = server.accept()
        except OSError:  # strangers have opened too many, or this one is gone
            time.sleep(self._between)
            return
        stranger.setblocking(False)
        self._strangers[stranger] = time.monotonic() + _GREETING, b""
        self._selector.register(stranger, selectors.EVENT_READ, self._greet)
        if len(self._strangers) > len(self._members) + _STRANGERS:
            self._turn_away(next(iter(self._strangers)))  # a rank names itself at once

    def _greet(self, stranger: socket.socket) -> None:
        """Find out which rank has connected."""
        if stranger not in self._strangers:  # turned away meanwhile
            return
        deadline, before = self._strangers[stranger]
        data = _receive(stranger)
        if data is None:
            return
        greeting, end, rest = (before + data).partition(b"\n")
        if data and not end and len(greeting) <= _LONGEST_GREETING:
            self._strangers[stranger] = deadline, greeting
            return
        try:
            secret, rank = greeting.split()
            known = secrets.compare_digest(secret, self._secret)
            member = self._members[int(rank)] if known else None
        except ValueError:
            member = None
        if member is None:
            self._turn_away(stranger)
            return
        del self._strangers[stranger]
        member.connection, member.received = stranger, rest
        self._selector.modify(stranger, selectors.EVENT_READ, partial(self._hear, member))
        if all(each.connection for each in self._members):
            self._open = False
            self._close(self._server)
        self._send(member, b"\n")

    def _turn_away(self, stranger: socket.socket) -> None:
        del self._strangers[stranger]
        self._close(stranger)

    def _hear(self, member: Member, connection: socket.socket) -> None:
        """Take the newest report of a rank, or see that its process has ended."""
        data = _receive(connection)
        if data is None:
            return
        if not data:
            self._close(connection)
            if not member.left:
                self._decide(self._after_losing(member))
            return
        *reports, member.received = (member.received + data).split(b"\n")
        if reports:
            self._update(member, reports[-1])

    def _update(self, member: Member, report: bytes) -> None:
        member.unanswered = 0
        progress, _, member.report = report.partition(b" ")
        if progress != member.progress:
            member.still, member.progress = 0, progress
        if progress == LEFT:
            member.left, status = True, member.status
            if all(each.left for each in self._members):
                self._decide(None)
            elif status.error and not self._failed:
                self._failed = time.monotonic() + _FOR_ALL_TO_FAIL, failed(member.info, status)

    def _judge(self) -> None:
        present = self._present()
        for member in present:
            if member.unanswered >= self._limits.pulses:
                self._decide(silent(member.info, self._own(), self._limits))
        if not present or not all(member.still >= self._limits.pulses for member in present):
            return
        suspects = self._last(present)
        if len(suspects) == len(present):  # a collective timed out on the ranks that wait in it
            suspects = [member for member in present if not member.status.error]
        reading = any(member.status.stage == READING for member in suspects)
        patient = reading and any(member.still < self._limits.while_reading for member in present)
        others = len(present) - len(suspects) if not self._members[0].left else len(self._members)
        if 0 < len(suspects) <= others and not patient:
            self._decide(hanging([member.info for member in suspects], suspects[0].status, self._limits))

    def _after_losing(self, member: Member) -> Verdict:
        """Its end, unless it has waited for others too long: collectives of cards end the process that waits in one."""
        present = self._present()
        late = self._last(present)
        if member not in late and all(each.still >= self._limits.pulses for each in late):
            return hanging([each.info for each in late], late[0].status, self._limits)
        return lost(member.info, self._own())

    def _last(self, members: list[Member]) -> list[Member]:
        """Those that have come least far."""
        places = [member.status.place_in_run for member in members]
        return [member for member, place in zip(members, places, strict=True) if place == min(places)]

    def _decide(self, verdict: Verdict | None) -> None:
        if not self._decided:
            self._decided, self._verdict = True, verdict

    def _present(self) -> list[Member]:
        return [member for member in self._members if not member.left]

    def _send(self, member: Member, message: bytes) -> None:
        if member.connection:
            with suppress(OSError):  # one that does not read, or has ended
                member.connection.send(message)

    def _close(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        connection.close()

    def _close_all(self) -> None:
        for connection in (self._server, *self._strangers, *(member.connection for member in self._members)):
            if connection:
                connection.close()
        self._selector.close()


def _receive(connection: socket.socket) -> bytes | None:
    """What has arrived; nothing where it has ended, None where nothing has arrived."""
    try:
        return connection.recv(1 << 16)
    except BlockingIOError:
        return None
    except OSError:
        return b""
