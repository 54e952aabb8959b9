"""The side of rank 0: send pulses, judge the answers."""

import asyncio
import json
import os
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from bridgetower_train.watchdog.verdict import (
    HeartbeatLimits,
    RankInfo,
    RankStatus,
    Verdict,
    failed,
    hanging,
    lost,
    silent,
)

_FOR_ALL_TO_FAIL = 1.0  # seconds: an error that all ranks meet needs no verdict


def listen() -> socket.socket:
    """A port for all ranks, on every interface and in both families of addresses where there are two."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", 0), backlog=1024)


@dataclass
class Member:
    """A rank as the monitor knows it."""

    person: RankInfo
    doing: RankStatus = field(default_factory=RankStatus)
    unanswered: int = 0
    """Pulses since its last answer,"""
    still: int = 0
    """and pulses since its main thread began the stage that it is in."""
    connection: asyncio.StreamWriter | None = None


class Monitor(threading.Thread):
    """Ends with a verdict, or when all ranks have left."""

    def __init__(
        self,
        people: list[RankInfo],
        server: socket.socket,
        secret: str,
        limits: HeartbeatLimits,
        own: Callable[[], RankStatus],
    ) -> None:
        """Ranks come to `server` and say the `secret`; `own` tells what the main thread of this process is doing."""
        super().__init__(name="monitor", daemon=True)
        self._members = [Member(person) for person in people]
        self._server, self._secret, self._limits, self._own = server, secret, limits, own
        os.register_at_fork(after_in_child=self._close_in_child)

    def run(self) -> None:
        """See Thread."""
        asyncio.run(self._watch())

    async def _watch(self) -> None:
        self._outcome: asyncio.Future[Verdict | None] = asyncio.get_running_loop().create_future()
        server = await asyncio.start_server(self._attend, sock=self._server, backlog=1024)
        while not self._outcome.done():
            for member in self._here():
                member.unanswered += 1
                member.still += 1
            self._tell(b"\n")
            await asyncio.wait([self._outcome], timeout=self._limits.pulse)
            self._judge()
        verdict = self._outcome.result()
        if verdict:
            self._tell(json.dumps(asdict(verdict)).encode() + b"\n")
            await asyncio.sleep(self._limits.pulse)  # in which this process ends
        server.close()

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read what a rank answers until its process ends."""
        try:
            secret, rank = (await reader.readline()).decode().split()
        except (ValueError, OSError):
            secret = ""
        if not secrets.compare_digest(secret, self._secret):
            return writer.close()
        member = self._members[int(rank)]
        member.connection = writer
        with suppress(
            OSError, asyncio.CancelledError
        ):  # the latter when the monitor ends, as some versions of asyncio complain
            while line := await reader.readline():
                self._heard(member, RankStatus(**json.loads(line)))
        if not member.doing.left:
            self._decide(lost(member.person, self._own()))
        return None

    def _heard(self, member: Member, doing: RankStatus) -> None:
        member.unanswered = 0
        if doing.stages != member.doing.stages:
            member.still = 0
        member.doing = doing
        if not self._here():
            self._decide(None)
        elif doing.left and doing.error:
            verdict = failed(member.person, doing)
            asyncio.get_running_loop().call_later(_FOR_ALL_TO_FAIL, self._decide, verdict)

    def _judge(self) -> None:
        here = self._here()
        for member in here:
            if member.unanswered >= self._limits.pulses:
                self._decide(silent(member.person, self._own(), self._limits))
        if all(member.still >= self._limits.pulses for member in here):
            behind = min((member.doing.stages for member in here), default=0)
            suspects = [member for member in here if member.doing.stages == behind]
            if len(suspects) == len(here):  # a collective timed out on those that wait in it
                suspects = [member for member in here if not member.doing.error]
            if 0 < len(suspects) <= len(here) / 2:
                self._decide(hanging([member.person for member in suspects], suspects[0].doing, self._limits))

    def _decide(self, verdict: Verdict | None) -> None:
        if not self._outcome.done():
            self._outcome.set_result(verdict)

    def _here(self) -> list[Member]:
        return [member for member in self._members if not member.doing.left]

    def _tell(self, message: bytes) -> None:
        for member in reversed(
            self._members
        ):  # rank 0 last: once it knows a verdict, this thread may end with its process
            if member.connection:
                member.connection.write(message)

    def _close_in_child(self) -> None:
        """A loader worker would keep connections open when this process is gone."""
        self._server.close()
        for member in self._members:
            if member.connection:
                with suppress(OSError):
                    os.close(member.connection.get_extra_info("socket").fileno())
