"""What is known about ranks, and the messages about one that is lost or hangs."""

import json
from dataclasses import asdict, dataclass

READING = "reading its batch"
"""The stage of a rank that waits for data."""

LEFT = b"left"
"""Takes the place of a rank's progress in its last report."""

_LONGEST_PULSE = 10.0  # seconds
_LONGEST_GRACE = 5.0


class HeartbeatLimits:
    """`timeout`, the seconds within which a rank that hangs must be named and the run ended, in pulses."""

    def __init__(self, timeout: float, patience: float = 0.0) -> None:
        """`patience`: seconds for which a rank may wait for data."""
        self.timeout = timeout
        self.pulse = min(timeout / 10, _LONGEST_PULSE)
        """Seconds between the reports of a rank."""
        self.grace = min(self.pulse, _LONGEST_GRACE)
        """Seconds for which a process may go on after the verdict."""
        self.pulses = round(timeout / self.pulse) - 2
        """How many may be missed. Counted, not timed: a job that was suspended as a whole continues."""
        self.while_reading = max(self.pulses, round(patience / self.pulse))
        """How many while a rank waits for data."""
        self.sign_every = max(1, self.pulses // 4)
        """So many pulses apart are the signs of life of the monitor."""

    def __str__(self) -> str:
        return f"for {self.pulses * self.pulse:g} s (distributed.timeout={self.timeout:g})"


@dataclass(frozen=True)
class RankInfo:
    """The process of a rank."""

    rank: int
    host: str
    pid: int
    machine: str
    """Equal for processes that can signal each other by their pids."""

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, pid {self.pid})"


@dataclass(frozen=True)
class RankStatus:
    """The state of a rank's main thread."""

    stages: int = 0
    """How many stages it has begun,"""
    collectives: int = 0
    """and how many collectives, as far as their library counts them; all ranks go through the same ones."""
    step: int = 0
    stage: str = "starting"
    place: str = ""
    """File and line of this package."""
    error: str = ""
    """The error that ends it."""
    left: bool = False

    def report(self) -> bytes:
        """A line of what changes while the main thread goes on, and, for whom that does not suffice, of all as JSON."""
        progress = LEFT if self.left else f"{self.stages}.{self.collectives}".encode()
        return progress + b" " + json.dumps(asdict(self)).encode() + b"\n"

    @property
    def place_in_run(self) -> tuple[int, int]:
        """Less for a rank that has come less far."""
        return self.stages, self.collectives

    def __str__(self) -> str:
        return f"at step {self.step}, while {self.stage}" if self.step else f"while {self.stage}"


@dataclass(frozen=True)
class Verdict:
    """Why the run ends."""

    rank: int
    """The rank to blame."""
    text: str
    stopped: int | None = None
    """The pid of a process that ignores its launcher's SIGTERM,"""
    machine: str = ""
    """and the machine where it can be killed."""


def lost(info: RankInfo, others: RankStatus) -> Verdict:
    """A process that has ended. The `others` are at the same step: no rank can finish one alone."""
    return Verdict(info.rank, f"{info} was lost {others}: its process was killed, or crashed (see above)")


def failed(info: RankInfo, status: RankStatus) -> Verdict:
    """A process with an error of its own, which it prints."""
    return Verdict(info.rank, f"{info} ended {status}, with {status.error}")


def silent(info: RankInfo, others: RankStatus, limits: HeartbeatLimits) -> Verdict:
    """A process that is stopped, or on a host that cannot be reached."""
    text = f"{info} has not answered {limits}, the others are {others}: it was stopped, or its host cannot be reached"
    return Verdict(info.rank, text, info.pid, info.machine)


def hanging(infos: list[RankInfo], status: RankStatus, limits: HeartbeatLimits) -> Verdict:
    """Processes whose main thread is stuck while the others wait for it; `status` is that of the first."""
    more = f" and {len(infos) - 1} other ranks hang" if infos[1:] else " hangs"
    place = f" ({status.place})" if status.place else ""
    return Verdict(infos[0].rank, f"{infos[0]}{more} {status}{place}; the others have waited {limits}")
