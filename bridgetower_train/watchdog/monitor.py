"""The part of rank 0: send pulses, judge the answers."""

import asyncio
import json
import os
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from bridgetower_train.watchdog.verdict import (
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
_GREETING = 10.0  # seconds within which a connection must name itself
_STRANGERS = 64  # connections, besides one of each rank, that have not done so yet


@dataclass
class Member:
    """What the monitor knows about a rank."""

    info: RankInfo
    status: RankStatus = field(default_factory=RankStatus)
    unanswered: int = 0
    """Pulses since its last answer,"""
    still: int = 0
    """and pulses since its main thread began its current stage."""
    connection: asyncio.StreamWriter | None = None


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
        self._strangers: dict[asyncio.StreamWriter, None] = {}
        self._server, self._secret, self._limits, self._own = server, secret.encode(), limits, own
        os.register_at_fork(after_in_child=self._close_in_child)

    def run(self) -> None:
        asyncio.run(self._watch())

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_report_faults_of_ours)
        self._outcome: asyncio.Future[Verdict | None] = loop.create_future()
        self._door = await asyncio.start_server(self._serve, sock=self._server, backlog=1024, start_serving=False)
        await self._door.start_serving()
        while not self._outcome.done():
            for member in self._present():
                member.unanswered += 1
                member.still += 1
            self._send(b"\n")
            await asyncio.wait([self._outcome], timeout=self._limits.pulse)
            self._judge()
        verdict = self._outcome.result()
        if verdict:
            self._send(json.dumps(asdict(verdict)).encode() + b"\n")
            await asyncio.sleep(self._limits.pulse)  # during which this process ends
        self._door.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read the answers of a rank until its process ends."""
        member = await self._greeted(reader, writer)
        if member is None:
            return writer.close()
        member.connection = writer
        if all(each.connection for each in self._members):
            self._door.close()
        with suppress(OSError, asyncio.CancelledError):  # some versions of asyncio raise the latter at the end
            while line := await reader.readline():
                self._update(member, RankStatus(**json.loads(line)))
        if not member.status.left:
            self._decide(lost(member.info, self._own()))
        return None

    async def _greeted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Member | None:
        """The rank that has connected; None for a stranger."""
        self._strangers[writer] = None
        if len(self._strangers) > len(self._members) + _STRANGERS:
            oldest = next(iter(self._strangers))  # a rank names itself at once
            del self._strangers[oldest]
            oldest.transport.abort()
        try:
            secret, rank = (await asyncio.wait_for(reader.readline(), _GREETING)).split()
        except (OSError, ValueError, asyncio.TimeoutError):
            return None
        finally:
            self._strangers.pop(writer, None)
        return self._members[int(rank)] if secrets.compare_digest(secret, self._secret) else None

    def _update(self, member: Member, status: RankStatus) -> None:
        member.unanswered = 0
        if status.stages != member.status.stages:
            member.still = 0
        member.status = status
        if not self._present():
            self._decide(None)
        elif status.left and status.error:
            verdict = failed(member.info, status)
            asyncio.get_running_loop().call_later(_FOR_ALL_TO_FAIL, self._decide, verdict)

    def _judge(self) -> None:
        present = self._present()
        for member in present:
            if member.unanswered >= self._limits.pulses:
                self._decide(silent(member.info, self._own(), self._limits))
        if all(member.still >= self._limits.pulses for member in present):
            behind = min((member.status.stages for member in present), default=0)
            suspects = [member for member in present if member.status.stages == behind]
            if len(suspects) == len(present):  # a collective timed out on the ranks that wait in it
                suspects = [member for member in present if not member.status.error]
            reading = any(member.status.stage == READING for member in suspects)
            patient = reading and any(member.still < self._limits.while_reading for member in present)
            if 0 < len(suspects) <= len(present) / 2 and not patient:
                self._decide(hanging([member.info for member in suspects], suspects[0].status, self._limits))

    def _decide(self, verdict: Verdict | None) -> None:
        if not self._outcome.done():
            self._outcome.set_result(verdict)

    def _present(self) -> list[Member]:
        return [member for member in self._members if not member.status.left]

    def _send(self, message: bytes) -> None:
        for member in reversed(self._members):  # rank 0 last: its process, and this thread, end with the verdict
            if member.connection:
                member.connection.write(message)

    def _close_in_child(self) -> None:
        """Otherwise a loader worker would keep connections open after the end of this process."""
        self._server.close()
        for member in self._members:
            if member.connection:
                with suppress(OSError):
                    os.close(member.connection.get_extra_info("socket").fileno())


def _report_faults_of_ours(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Says nothing of connections that cannot be accepted or break, of which strangers can make many."""
    if not isinstance(context.get("exception"), OSError):
        loop.default_exception_handler(context)
