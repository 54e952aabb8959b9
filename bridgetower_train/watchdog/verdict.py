"""What is known of ranks, and what is said of one that is lost or hangs."""

from dataclasses import dataclass

_LONGEST_PULSE = 5.0  # seconds


class HeartbeatLimits:
    """`timeout`, the seconds within which a rank that hangs must have been named and the run ended, as pulses."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.pulse = min(timeout / 10, _LONGEST_PULSE)
        """Seconds from one pulse to the next."""
        self.pulses = round(timeout / self.pulse) - 2
        """How many may go by. Counted, not timed: a job that was suspended as a whole goes on."""

    def __str__(self) -> str:
        return f"for {self.pulses * self.pulse:g} s (distributed.timeout={self.timeout:g})"


@dataclass(frozen=True)
class RankInfo:
    """Who a rank is."""

    rank: int
    host: str
    pid: int
    machine: str
    """Equal for processes that may signal each other by their pids."""

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, pid {self.pid})"


@dataclass(frozen=True)
class RankStatus:
    """What the main thread of a rank is doing."""

    stages: int = 0
    """How many stages it has begun; all ranks go through the same ones."""
    step: int = 0
    stage: str = "starting"
    place: str = ""
    """File and line of this package."""
    error: str = ""
    """The error that ends it."""
    left: bool = False

    def __str__(self) -> str:
        return f"at step {self.step}, while {self.stage}" if self.step else f"while {self.stage}"


@dataclass(frozen=True)
class Verdict:
    """Why the run ends."""

    rank: int
    """The one that is to blame."""
    text: str
    stopped: int | None = None
    """The pid of a process that takes no SIGTERM from its launcher,"""
    machine: str = ""
    """and where it can be killed."""


def lost(person: RankInfo, others: RankStatus) -> Verdict:
    """A process that has ended. The `others` are at the same step: none can finish one alone."""
    return Verdict(person.rank, f"{person} was lost {others}: its process was killed, or crashed (see above)")


def failed(person: RankInfo, doing: RankStatus) -> Verdict:
    """A process that has met an error of its own, which it prints."""
    return Verdict(person.rank, f"{person} ended {doing}, with {doing.error}")


def silent(person: RankInfo, others: RankStatus, limits: HeartbeatLimits) -> Verdict:
    """A process that is stopped, or on a host that cannot be reached."""
    text = f"{person} has not answered {limits}, the others are {others}: it was stopped, or its host cannot be reached"
    return Verdict(person.rank, text, person.pid, person.machine)


def hanging(people: list[RankInfo], doing: RankStatus, limits: HeartbeatLimits) -> Verdict:
    """Processes whose main thread does not get on, while the others wait for it; `doing` is of the first."""
    more = f" and {len(people) - 1} other ranks hang" if people[1:] else " hangs"
    place = f" ({doing.place})" if doing.place else ""
    return Verdict(people[0].rank, f"{people[0]}{more} {doing}{place}; the others have waited {limits}")
