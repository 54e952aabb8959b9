"""What strangers can do at the monitor's port."""

import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from bridgetower_train.watchdog import monitor
from bridgetower_train.watchdog.monitor import Monitor
from bridgetower_train.watchdog.verdict import HeartbeatLimits, RankInfo, RankStatus
from tests.hostile.attacks import attack

RANKS = 2
SECRET = secrets.token_hex()
TOO_LATE = 5.0  # seconds


@contextmanager
def monitor_of(ranks: int) -> Iterator[tuple[Monitor, int]]:
    """A monitor and its port; ranks report every second."""
    server = socket.create_server(("127.0.0.1", 0), backlog=1024)
    infos = [RankInfo(rank, "here", 0, "") for rank in range(ranks)]
    thread = Monitor(infos, server, SECRET, HeartbeatLimits(10), RankStatus)
    thread.start()
    yield thread, server.getsockname()[1]
    thread._decide(None)
    thread.join(TOO_LATE)
    assert not thread.is_alive()


@pytest.fixture
def port():
    """The port of a monitor of two ranks."""
    with monitor_of(RANKS) as (_, number):
        yield number


def greet(port: int, greeting: bytes) -> socket.socket:
    """A connection that has said something."""
    connection = socket.create_connection(("127.0.0.1", port), TOO_LATE)
    with suppress(OSError):  # closed while a long one is sent
        connection.sendall(greeting)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Whether the monitor closes a connection before it is too late, and says nothing."""
    try:
        return connection.recv(100) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def joined(rank: int, port: int) -> socket.socket:
    """The connection of a rank, which has received a sign of life."""
    connection = greet(port, f"{SECRET} {rank}\n".encode())
    assert connection.recv(100).strip() == b""
    return connection


@attack(64)
@pytest.mark.parametrize(
    "greeting",
    [b"nonsense 1\n", b"\xff\xfe 1\n", b"x" * 200_000 + b"\n", b"GET / HTTP/1.1\r\n\r\n", b"\n"],
    ids=["wrong secret", "invalid UTF-8", "long line", "HTTP", "nothing"],
)
def test_a_stranger_is_turned_away(port, greeting, caplog):
    with greet(port, greeting) as stranger:
        assert is_closed(stranger)
    assert not caplog.records


@attack(65)
def test_a_greeting_in_other_letters_is_no_error(port, caplog):
    with greet(port, "sécret 1\n".encode()) as stranger:
        assert is_closed(stranger)
    assert not caplog.records


@attack(65)
def test_many_strangers_who_say_nothing_keep_no_rank_out(port):
    strangers = [socket.create_connection(("127.0.0.1", port), TOO_LATE) for _ in range(500)]
    rank = joined(1, port)
    for stranger in strangers:
        stranger.settimeout(0)
    open_still = 500
    deadline = time.monotonic() + TOO_LATE
    while open_still > RANKS + monitor._STRANGERS and time.monotonic() < deadline:
        time.sleep(0.05)
        open_still = sum(not _ended(stranger) for stranger in strangers)
    assert open_still <= RANKS + monitor._STRANGERS
    for connection in (rank, *strangers):
        connection.close()


def _ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@attack(65)
def test_a_stranger_who_says_nothing_is_turned_away_in_time(port, monkeypatch):
    monkeypatch.setattr(monitor, "_GREETING", 0.2)
    with greet(port, b"half a greet") as stranger:
        assert is_closed(stranger)


def test_nobody_can_connect_once_all_ranks_have(port):
    ranks = [joined(rank, port) for rank in range(RANKS)]
    with pytest.raises(ConnectionError):
        greet(port, b"")
    assert [rank.recv(100).strip() for rank in ranks] == [b"", b""]  # the next signs of life
    for rank in ranks:
        rank.close()


@attack(65)
def test_a_connection_that_cannot_be_accepted_keeps_no_rank_out(monkeypatch):
    """As where strangers have used up the files that may be open."""
    accept, failures = socket.socket.accept, [OSError(24, "Too many open files")]
    monkeypatch.setattr(socket.socket, "accept", lambda self: _raise(failures.pop()) if failures else accept(self))
    with monitor_of(RANKS) as (_, port):
        joined(1, port).close()
    assert not failures


def _raise(error: Exception) -> None:
    raise error


def test_a_rank_that_waits_for_data_has_more_time_than_one_that_hangs():
    infos = [RankInfo(rank, "here", 0, "") for rank in range(3)]
    with socket.create_server(("127.0.0.1", 0)) as server:
        watching = Monitor(infos, server, SECRET, HeartbeatLimits(10, patience=100), RankStatus)

        def judged(behind: str, pulses: int) -> bool:
            decided = []
            watching._decide = decided.append
            for member in watching._members:
                member.still, member.report = pulses, _reported(5, "training")
            watching._members[1].report = _reported(4, behind)
            watching._judge()
            return bool(decided)

        assert [judged("training", pulses) for pulses in (7, 8)] == [False, True]
        assert [judged("reading its batch", pulses) for pulses in (99, 100)] == [False, True]


def _reported(stages: int, stage: str) -> bytes:
    return RankStatus(stages, step=2, stage=stage).report().partition(b" ")[2]


def test_a_process_that_a_collective_has_ended_is_not_to_blame():
    """Those of cards end the process that waits for a late rank, once that takes too long."""

    def blamed(pulses: int) -> int:
        with monitor_of(3) as (watching, port):
            ranks = [joined(rank, port) for rank in range(3)]
            for rank, connection in enumerate(ranks):
                stages = 4 if rank == 1 else 5
                connection.sendall(RankStatus(stages, step=2, stage="training").report())
            deadline = time.monotonic() + TOO_LATE
            while not all(member.report for member in watching._members) and time.monotonic() < deadline:
                time.sleep(0.01)
            watching._members[1].still = pulses
            ranks[2].close()
            watching.join(TOO_LATE)
            ranks[0].close()
            ranks[1].close()
            return watching._verdict.rank

    assert [blamed(0), blamed(20)] == [2, 1]
