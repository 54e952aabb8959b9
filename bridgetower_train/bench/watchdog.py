"""`bridgetower bench watchdog`: what the monitor of many ranks takes of rank 0's process; a second process plays the ranks."""

import multiprocessing
import secrets
import socket
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

from bridgetower_train.bench.kit import BenchConfig, Figures, bench
from bridgetower_train.config import at_least
from bridgetower_train.distributed import allow_connections
from bridgetower_train.watchdog.monitor import Monitor
from bridgetower_train.watchdog.verdict import HeartbeatLimits, RankInfo, RankStatus

FIGURES = {
    "ranks": "as many connections, on this machine",
    "cores": "CPU-seconds of the monitor per second (target for 4,096 ranks: 0.01)",
    "ms_per_report": "the same per report of a rank, in milliseconds",
}
"""What `measure` returns."""


@dataclass(frozen=True)
class BenchWatchdogConfig(BenchConfig):
    """What is measured."""

    ranks: int = 4096
    """Ranks that report."""
    seconds: float = 30.0
    """For how long, after two pulses that do not count."""
    timeout: float = 1800.0
    """`distributed.timeout`, by which the pulse is chosen."""

    def __post_init__(self) -> None:
        for name, least in (("ranks", 2), ("seconds", 1), ("timeout", 1)):
            at_least(name, getattr(self, name), least)


def measure(config: BenchWatchdogConfig) -> Figures:
    """FIGURES."""
    allow_connections()
    limits, secret = HeartbeatLimits(config.timeout), secrets.token_hex()
    server = socket.create_server(("127.0.0.1", 0), backlog=config.ranks)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    port = server.getsockname()[1]
    ranks = context.Process(target=_play, args=(theirs, config.ranks, port, secret, limits.pulse), daemon=True)
    ranks.start()
    theirs.close()
    ours.recv()  # they have started
    monitor = Monitor([RankInfo(rank, "", 0, "") for rank in range(config.ranks)], server, secret, limits, RankStatus)
    monitor.start()
    ours.recv()  # and connected
    time.sleep(2 * limits.pulse)
    assert monitor.ident is not None
    clock = time.pthread_getcpuclockid(monitor.ident)
    began, worked = time.monotonic(), time.clock_gettime(clock)
    time.sleep(config.seconds)
    cores = (time.clock_gettime(clock) - worked) / (time.monotonic() - began)
    ours.send("leave")
    monitor.join()
    ranks.join()
    return {"ranks": config.ranks, "cores": cores, "ms_per_report": 1000 * cores * limits.pulse / config.ranks}


def _play(monitor: Connection, ranks: int, port: int, secret: str, pulse: float) -> None:
    """All ranks, which go on from one report to the next."""
    allow_connections()
    monitor.send("started")
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(ranks)]
    for rank, connection in enumerate(connections):
        connection.sendall(f"{secret} {rank}\n".encode())
    monitor.send("connected")
    step = 0
    while not monitor.poll():
        due, step = time.monotonic() + pulse, step + 1
        status = RankStatus(2 * step, collectives=9 * step, step=step, stage="training", place="training/run.py:44")
        for connection in connections:
            connection.sendall(status.report())
        monitor.poll(max(0.0, due - time.monotonic()))
    for connection in connections:
        connection.sendall(RankStatus(left=True).report())


run = bench("watchdog", measure, FIGURES)
